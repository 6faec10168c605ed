"Similar products by words and pictures: the cosine is the mix of both, what is there decides, and an index of pictures stays as it was."
import json, shutil
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from catalog_tagger.apps import cli
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.index import index_catalog, load_embedder
from catalog_tagger.runs.train import train_run
from catalog_tagger.search.faiss import KINDS
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.search.retrieval import retrieval_scores
from catalog_tagger.search.text_mix import TextMix, best_weight, text_vectors, weight_scores
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.train.text_model import fit_text_model

try: import faiss
except ImportError: faiss = None
OLD = Path(__file__).parent/'samples'/'v1'     # a run and an index of an earlier version, without texts
LABELS = ('articleType', 'baseColour')
def quiet(_): pass

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A shop of 150 titles, two of them empty, and a run that has learned from them."
    root = tmp_path_factory.mktemp('texts'); shop = demo_styles(root/'shop', n=150)
    df = pd.read_csv(shop/'styles.csv', dtype=str, keep_default_na=False); df.loc[[3, 7], 'productDisplayName'] = ['', '']
    df.to_csv(shop/'styles.csv', index=False)
    train_run(RunConfig(str(shop), str(root/'run'), size=32, bs=32, freeze_epochs=1, epochs=0, label_columns=LABELS), say=quiet)
    return root

@pytest.fixture(scope='module')
def plain(place): return index_catalog(place/'run', place/'shop', place/'plain', say=quiet)

@pytest.fixture(scope='module')
def mixed(place):
    index_catalog(place/'run', place/'shop', place/'mixed', text_weight=.3, say=quiet)
    return SimilarIndex.load(place/'mixed')

@pytest.fixture(scope='module')
def other(place):
    "A picture that the shop does not have."
    path = place/'other.png'
    with Image.open(place/'shop'/'images'/'1001.jpg') as im: im.rotate(20).save(path)
    return path

def exact_cosines(index, text):
    "Of the texts of the table with `text` by the whole TF-IDF; 0 for a row without one."
    model = index.texts.model
    def row(o): x = np.zeros(len(model.vocab)); at, w = model.terms(model.plain(o)); x[at] = w; return x
    return np.array([row(o) @ row(text) for o in index.table['text']])

def by_image(found): return dict(zip(found['image'], found['score']))
def in_order(index, found): return np.array([by_image(found)[o] for o in index.table['image']])

# ---- the cosine

def test_the_cosine_is_the_mix_of_both(plain, mixed, other):
    picture = plain.vectors @ plain.embedder([other])[0]
    found = mixed.search(other, k=150, text='blue handbag'); assert not found.attrs['notes']
    exact = .7*picture + .3*exact_cosines(mixed, 'blue handbag')
    assert np.abs(in_order(mixed, found) - exact).max() < .3*.25 and np.abs(in_order(mixed, found) - exact).mean() < .3*.05
    said = mixed.texts.vectors(mixed.table['text']) @ mixed.texts.vectors(['blue handbag'])[0]
    np.testing.assert_allclose(in_order(mixed, found), .7*picture + .3*said, atol=1e-5)

def test_a_row_is_asked_with_its_picture_and_its_text(plain, mixed):
    said = mixed.texts.vectors(mixed.table['text']); want = .7*plain.vectors @ plain.vectors[20] + .3*said @ said[20]
    found = by_image(mixed.search(mixed.table['image'][20], k=150))
    for i, o in enumerate(mixed.table['image']):
        if o in found: assert found[o] == pytest.approx(want[i], abs=1e-5)
    assert len(found) > 140

def test_a_row_without_a_text_is_asked_by_its_picture(plain, mixed):
    bare = np.flatnonzero(mixed.table['text'].fillna('') == ''); assert len(bare) == 2
    for i in bare:
        found = mixed.search(mixed.table['image'][i], k=5)
        np.testing.assert_allclose(found['score'], plain.search(plain.table['image'][i], k=5)['score'], atol=1e-5)
        assert 'compared by pictures alone' in found.attrs['notes'][0]
    score, at = mixed.neighbours(bare, k=5)     # and by every other road: no row is near because it lacks a text too
    np.testing.assert_allclose(score, plain.neighbours(bare, k=5)[0], atol=1e-5)

def test_a_picture_alone_and_a_text_alone(plain, mixed, other):
    one, two = mixed.search(other, k=150), plain.search(other, k=150)
    np.testing.assert_allclose(one['score'], two['score'], atol=1e-5)
    note = 'compared by pictures alone: the score is the cosine of pictures, not the mix of this index (text weight 0.3)'
    assert one.attrs['notes'] == [note]
    words = mixed.search(text='blue handbag', k=150); exact = exact_cosines(mixed, 'blue handbag')
    assert 'compared by texts alone' in words.attrs['notes'][0] and np.abs(in_order(mixed, words) - exact).max() < .25
    best = mixed.search(text='red watch', k=3)
    assert (best['articleType'] == 'Watches').all() or (best['baseColour'] == 'Red').all()
    assert set(best['image']) & set(mixed.table['image'][exact_cosines(mixed, 'red watch') >= .4])

def test_tags_with_words(mixed):
    found = mixed.find(['Tshirts'], text='red', k=5)
    assert (found['articleType'] == 'Tshirts').all() and found['baseColour'][0] == 'Red'

def test_duplicates_are_of_pictures(plain, mixed):
    pd.testing.assert_frame_equal(mixed.duplicates(.6)[['image', 'other']], plain.duplicates(.6)[['image', 'other']])

@pytest.mark.skipif(faiss is None, reason='needs faiss-cpu')
def test_faiss_searches_mixed_vectors(place, mixed, other):
    index = SimilarIndex.build(mixed.vectors, mixed.table, kind='hnsw', embedder=mixed.embedder, texts=mixed.texts)
    index.save(place/'graph'); index = SimilarIndex.load(place/'graph')
    for query in (dict(query=other), dict(text='blue handbag'), dict(query=other, text='blue handbag')):
        np.testing.assert_allclose(index.search(**query)['score'], mixed.search(**query)['score'], atol=1e-3)
    assert index.duplicates(.6).shape == mixed.duplicates(.6).shape

@pytest.mark.parametrize('dtype, dims', [('float16', None), ('float32', 16)])
def test_smaller_vectors(place, other, dtype, dims):
    index = index_catalog(place/'run', place/'shop', place/f'{dtype}{dims}', text_weight=.3, dtype=dtype, dims=dims, say=quiet)
    assert index.vectors.dtype == dtype
    alone = index_catalog(place/'run', place/'shop', place/f'plain {dtype}{dims}', dtype=dtype, dims=dims, say=quiet)
    np.testing.assert_allclose(SimilarIndex.load(place/f'{dtype}{dims}').search(other)['score'], alone.search(other)['score'], atol=5e-3)

def test_texts_alone(place, mixed, other):
    index = index_catalog(place/'run', place/'shop', place/'texts', text_weight='1', say=quiet)
    np.testing.assert_allclose(index.search(text='blue handbag')['score'], mixed.search(text='blue handbag')['score'], atol=1e-5)
    with pytest.raises(CatalogError, match='compares texts alone'): index.search(other)
    with pytest.raises(CatalogError, match='compares texts alone'): index.duplicates()

def test_the_pictures_of_a_product_have_one_text(place, tmp_path):
    shop = tmp_path/'shop'; shutil.copytree(place/'shop', shop)
    df = pd.read_csv(shop/'styles.csv', dtype=str, keep_default_na=False); df['sku'] = [f'P{i//2}' for i in range(len(df))]
    df.loc[1::2, 'productDisplayName'] = ''; df.to_csv(shop/'styles.csv', index=False)
    index = index_catalog(place/'run', shop, tmp_path/'i', text_weight=.3, product='sku', say=quiet)
    said = index.texts.parts(index.vectors)[1]
    np.testing.assert_allclose(said[::2], said[1::2], atol=1e-5)

# ---- an index of pictures

def test_weight_0_is_the_index_of_today(place, plain):
    index_catalog(place/'run', place/'shop', place/'zero', text_weight=0, say=quiet)
    assert {o.name for o in (place/'zero').iterdir()} == {o.name for o in (place/'plain').iterdir()}
    for o in (place/'plain').iterdir(): assert (place/'zero'/o.name).read_bytes() == o.read_bytes()

def test_an_index_of_an_earlier_version_has_no_texts(tmp_path):
    shutil.copytree(OLD/'index', tmp_path/'index'); shutil.copy(OLD/'embeddings'/'model.safetensors', tmp_path/'index')
    old = SimilarIndex.load(tmp_path/'index'); assert old.texts is None and len(old.search(old.table['image'][0], k=2)) == 2
    with pytest.raises(CatalogError, match='compares pictures alone, so it cannot search by text'): old.search(text='blue')

# ---- the weight

def test_auto_takes_the_best_weight_on_valid(place):
    told = []; index = index_catalog(place/'run', place/'shop', place/'auto', text_weight='auto', say=told.append)
    run = Run.open(place/'run'); rows = run.pictures('valid'); embedder, tagger = load_embedder(place/'run')
    title = index.table.set_index('image')['text'].reindex(rows['image'])
    there = (title.fillna('') != '').to_numpy(); rows, title = rows[there], title[there]
    v, t = embedder(rows['image']), text_vectors(tagger.texts.model, title)
    unit = index.table.set_index('image')['unit'].reindex(rows['image'])
    Y = tagger.space.one_hot(rows['labels'])
    for w in (0, .5, 1):
        want = retrieval_scores(np.hstack([(1 - w)**.5*v, w**.5*t]), Y, unit=unit.tolist())['score']['nDCG@10']
        assert index.texts.measured[f'{w:g}'] == pytest.approx(want, abs=1e-4)
    scores = {float(k): o for k, o in SimilarIndex.load(place/'auto').texts.measured.items()}
    assert len(scores) == 11 and index.texts.weight == max(scores, key=scores.get) > 0
    line = next(o for o in told if 'nDCG@10' in o)
    for w in (0, index.texts.weight, 1): assert f'{scores[w]:.3f}' in line
    again = index_catalog(place/'run', place/'shop', place/'again', text_weight=index.texts.weight, say=quiet)
    np.testing.assert_array_equal(again.vectors, index.vectors)

def test_auto_may_find_that_texts_do_not_help():
    r = np.random.default_rng(0); kind = r.integers(3, size=60); Y = np.eye(3)[kind]
    titles = [f'thing {i % 7}' for i in range(60)]; model = fit_text_model(titles, Y)
    assert best_weight(weight_scores(Y.astype('f'), text_vectors(model, titles), Y)) == 0

def test_the_projection_depends_on_the_words_alone():
    "Not on the order of the vocabulary, the machine or a seed: these are bits of SHAKE-128 of 'w red'."
    import hashlib
    from catalog_tagger.train.text_model import TextModel
    one = TextModel(['w red'], np.ones(1, 'f'), np.zeros((1, 0), 'f'), np.zeros(0, 'f'))
    bits = [int(o) for byte in hashlib.shake_128(b'w red').digest(2) for o in f'{byte:08b}']
    np.testing.assert_allclose(text_vectors(one, ['Red'], 16)[0], (2*np.array(bits) - 1)/4)

# ---- errors

def error(*argv, capsys):
    code = cli.main([str(o) for o in argv]); said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and said.startswith('catalog_tagger: '); return said

def test_errors_of_one_line(place, plain, mixed, tmp_path, capsys):
    p = place; out = ['--out', tmp_path/'i']
    cases = [
        (['index', OLD/'run', p/'shop', *out, '--text-weight', '.5'], 'for a run that has learned from texts too'),
        (['index', 'test_efficientnet', p/'shop', *out, '--text-weight', 'auto', '--weights', 'none'], 'knows pictures alone'),
        (['index', p/'run', p/'shop'/'images', *out, '--text-weight', '.5'], 'has no texts to compare: name their columns with --text'),
        (['index', p/'run'/'tagger', p/'shop', *out, '--text-weight', 'auto'], 'is a bundle: give a number from 0 to 1'),
        *((['index', p/'run', p/'shop', *out, f'--text-weight={o}'], f"--text-weight '{o}', expected auto or a number from 0 to 1")
          for o in ('1.5', '-1', 'nan', 'inf', 'best')),
        (['similar', p/'plain', '--text', 'blue'], 'it cannot search by text: build it with --text-weight'),
        (['similar', p/'mixed', '--text', 'ξ'], "no word of 'ξ' is in the texts of this index"),
        (['similar', p/'mixed', '--text', ''], "no word of '' is in the texts of this index"),
        (['similar', p/'mixed', '--text', 'blue', '--duplicates', '.9'], '--text cannot be combined with --duplicates'),
        (['similar', p/'mixed'], 'give a picture, --text, --tags or several of them'),
    ]
    for argv, says in cases: assert says in error(*argv, capsys=capsys), argv
    assert not list(tmp_path.glob('i/*'))

def test_texts_of_another_shop(place, tmp_path, capsys):
    "Its titles are in another column, and one picture has a title of unknown words."
    shop = tmp_path/'shop'; shutil.copytree(place/'shop', shop)
    df = pd.read_csv(shop/'styles.csv', dtype=str, keep_default_na=False).rename(columns={'productDisplayName': 'headline'})
    df.loc[0, 'headline'] = 'ξξξ'; df.to_csv(shop/'styles.csv', index=False)
    assert 'has no texts to compare' in error('index', place/'run', shop, '--out', tmp_path/'i', '--text-weight', '.5', capsys=capsys)
    assert cli.main(list(map(str, ['index', place/'run', shop, '--out', tmp_path/'i', '--text-weight', '.5', '--text', 'headline']))) == 0
    assert '3 of 150 pictures have no text with a known word' in (said := capsys.readouterr()).out + said.err
    assert cli.main(['similar', str(tmp_path/'i'), '--text', 'blue handbag', '--k', '2', '--out', str(tmp_path/'o.json')]) == 0
    assert [o['score'] for o in json.loads((tmp_path/'o.json').read_text())][0] > .3

def test_vectors_must_be_a_mix(mixed):
    with pytest.raises(CatalogError, match='is not a mix of a picture and a text'):
        SimilarIndex.build(mixed.vectors[:, ::-1], mixed.table, texts=mixed.texts)
    index = SimilarIndex.build(mixed.vectors[:5], mixed.table[:5], texts=mixed.texts)
    with pytest.raises(CatalogError, match='is not a mix'): index.add(mixed.vectors[5:6, ::-1], mixed.table[5:6].reset_index(drop=True))
    assert len(index.add(mixed.vectors[5:6], mixed.table[5:6].reset_index(drop=True))) == 6
