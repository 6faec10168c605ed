"What earlier versions stored is read for ever: a format that changes gets its own folder, and no sample is changed or removed."
import json, shutil
from pathlib import Path

import numpy as np, pytest

from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.catalog.recipe import Recipe
from catalog_tagger.catalog.text import TextTags
from catalog_tagger.core.config import RunConfig
from catalog_tagger.runs.folder import Run
from catalog_tagger.search.embed import load_embeddings
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.serve.tagger import Tagger

RUNS = ('run', 'posts_run')

@pytest.fixture(params=sorted((Path(__file__).parent/'samples').glob('v*')), ids=lambda o: o.name)
def stored(request): return request.param

def expected(stored): return json.loads((stored/'expected.json').read_text())

def pictures(stored): return [str(o) for o in sorted((stored/'pictures').iterdir())]

@pytest.mark.parametrize('run', RUNS)
def test_a_bundle_gives_the_same_scores_and_answers(stored, run):
    tagger, want, items = Tagger.load(stored/run/'tagger'), expected(stored)[run], pictures(stored)
    scores, features = tagger.scores_and_features(items)
    np.testing.assert_allclose(scores, want['scores'], atol=1e-5)
    np.testing.assert_allclose(tagger.decision.outside.distance(features), want['outside'], atol=1e-5)
    for mode, answers in want['answers'].items():
        for got, told in zip(tagger.predict(items, mode=mode), answers, strict=True):
            assert [t for t, _ in got] == [t for t, _ in told]
            np.testing.assert_allclose([s for _, s in got], [s for _, s in told], atol=1e-5)

@pytest.mark.parametrize('run', RUNS)
def test_a_run_is_opened(stored, run):
    run = Run.open(stored/run)
    assert run.labels == Tagger.load(run.folder/'tagger').space and run.config.arch == 'test_efficientnet'
    assert run.metrics['pictures'] == run.split['split'].value_counts().to_dict() and len(run.history) == run.config.epochs
    assert len(run.rejected) and {t for o in run.split['labels'] for t in o} == set(run.labels.vocab) and (run.audit['train'] > 0).any()

@pytest.mark.parametrize('kind, names',
                         [(LabelSpace, ['run/labels.json', 'posts_run/labels.json', 'words_labels.json']), (Recipe, ['recipe.json']),
                          (TextTags, ['words.json']),
                          (RunConfig, ['run/config.json', 'posts_run/config.json'])], ids=lambda o: getattr(o, '__name__', ''))
def test_a_record_keeps_all_that_was_stored(stored, kind, names):
    for name in names:
        told = json.loads((stored/name).read_text()); back = json.loads(json.dumps(kind.load(stored/name).to_dict()))
        assert {k: back[k] for k in told} == told

def test_raw_tags_and_texts_still_find_their_labels(stored):
    space = LabelSpace.load(stored/'posts_run'/'labels.json')
    assert space.encode(['#BLUE', 'Chronograph', 'pump', 'nobody']) == ['blue', 'watch']
    words = TextTags.load(stored/'words.json')
    texts = ['Ein blaues Kleid mit langen Ärmeln', 'Schöne Stücke: weißes T-Shirt']
    assert words.apply(texts) == [['blau'], ['weiß', 't-shirt', 'schön stück']]

def test_embeddings_and_their_model(stored):
    e, want = load_embeddings(stored/'embeddings'), expected(stored)['index']['vectors']
    assert e.ids == [Path(o).name for o in pictures(stored)] and len(e.rejected) == 0
    np.testing.assert_allclose(e.vectors, want, atol=1e-5); np.testing.assert_allclose(e.embedder(pictures(stored)), want, atol=1e-5)

def test_an_index_is_searched(stored, tmp_path):
    # one file for both, to be small
    shutil.copytree(stored/'index', tmp_path/'index'); shutil.copy(stored/'embeddings'/'model.safetensors', tmp_path/'index')
    index = SimilarIndex.load(tmp_path/'index')
    assert index.search('0.png', k=2)['image'].tolist() == expected(stored)['index']['search']
    assert index.search(pictures(stored)[1], k=1)['image'].tolist() == ['1.png']
    assert index.find(['a', 'b'])['year'].tolist() == [2013] and index.table['group'].tolist()[:3] == ['x', 'x', 'y']

# Texts

TEXTS = Path(__file__).parent/'samples'/'texts'

def test_a_bundle_with_texts_gives_the_same_answers(tmp_path):
    shutil.copytree(TEXTS/'tagger', tmp_path/'tagger'); v1 = TEXTS.parent/'v1'
    shutil.copy(v1/'run'/'tagger'/'model.safetensors', tmp_path/'tagger')    # one file for both, to be small
    tagger, want = Tagger.load(tmp_path/'tagger'), json.loads((TEXTS/'expected.json').read_text(encoding='utf-8'))
    items = [None if o is None else pictures(v1)[o] for o in want['pictures']]; texts = want['texts']
    np.testing.assert_allclose(tagger.texts.model.margins(texts), np.array(want['margins'], float), atol=1e-5)
    scores, side = tagger.scores_with_texts(items, texts)
    np.testing.assert_allclose(scores, want['scores'], atol=1e-5); assert side.tolist() == want['sides']
    def same(got, told):
        assert [t for t, _ in got] == [t for t, _ in told]
        np.testing.assert_allclose([s for _, s in got], [s for _, s in told], atol=1e-5)
    for mode, answers in want['answers'].items():
        for o in zip(tagger.predict(items, texts=texts, mode=mode), answers, strict=True): same(*o)
    found = tagger.predict_products([items[0], items[1], pictures(v1)[2]], ['a', 'a', 'b'], texts=[texts[0], None, None])
    for p, told in want['products'].items(): same(found[p], told)

def test_a_run_of_before_texts_is_opened_without_them(stored):
    "Its config names none of the settings of texts, and its bundle has no text side."
    told = json.loads((stored/'run'/'config.json').read_text()); cfg = Run.open(stored/'run').config
    if 'text' in told: pytest.skip('it was stored later')
    assert cfg.text is None and not cfg.mask_labels and Tagger.load(stored/'run'/'tagger').texts is None
