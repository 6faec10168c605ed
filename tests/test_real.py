"The main job on some 300 real pictures of each data set, where CATALOG_TAGGER_DATA says they are."
import shutil

import pandas as pd, pytest

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.table import read_table
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.runs.folder import load_tagger
from catalog_tagger.runs.train import train_run

@pytest.fixture(scope='module')
def fashion(data_root, tmp_path_factory):
    "Three hundred products of the eight most frequent article types, and the one empty file."
    src, dst = data_root/'fashion-product-images', tmp_path_factory.mktemp('fashion')
    df = pd.read_csv(src/'styles.csv', dtype=str, keep_default_na=False)
    common = df[df['articleType'].isin(df['articleType'].value_counts().index[:8])].sample(299, random_state=0)
    df = pd.concat([common[common['id'] != '11983'], df[df['id'] == '11983']])
    (dst/'images').mkdir()
    for o in df['id']: shutil.copy(src/'images'/f'{o}.jpg', dst/'images')
    df.to_csv(dst/'styles.csv', index=False)
    return dst

def test_fashion(fashion, tmp_path):
    told = []
    metrics = train_run(RunConfig(str(fashion), str(tmp_path/'r'), size=96, freeze_epochs=5, epochs=5), told.append)
    assert any('11983.jpg: empty file' in o for o in told)
    for m, margin in [('recall@3', .25), ('accuracy/articleType', .3)]:
        o = metrics['test'][m]
        assert o['score'] > o['commonest'] + margin, (m, o)
    answer = load_tagger(tmp_path/'r', trust=True).predict(sorted((fashion/'images').glob('1*.jpg'))[0])
    assert len(answer) == 3

def test_whole_fashion_table_is_read(data_root):
    catalog = read_catalog(data_root/'fashion-product-images')
    df, rejected = catalog.df, catalog.rejected
    assert len(df) + len(rejected) == 4509 and df['productDisplayName'].notna().sum() >= 4507
    some = read_catalog(data_root/'fashion-product-images', where="masterCategory in ['Apparel', 'Footwear']", min_count=100).df
    assert set(some['masterCategory']) == {'Apparel', 'Footwear'} and some['articleType'].value_counts().min() >= 100

def test_clothing_folders(data_root, tmp_path):
    "The source's validation photos become test; valid is cut from train."
    src, dst = data_root/'clothing-dataset-small', tmp_path/'c'
    for fold, n in [('train', 40), ('validation', 12)]:
        for c in ('dress', 'hat', 'pants', 'shoes', 't-shirt'):
            (dst/fold/c).mkdir(parents=True)
            for o in sorted((src/fold/c).glob('*.jpg'))[:n]: shutil.copy(o, dst/fold/c)
    metrics = train_run(RunConfig(str(dst), str(tmp_path/'r'), size=128, freeze_epochs=4, epochs=4), lambda o: None)
    df = read_table(tmp_path/'r'/'split.csv')
    assert df['image'].str.startswith('validation').equals(df['split'] == 'test')
    o = metrics['test']['accuracy/category']
    assert o['score'] > o['commonest'] + .4, o
