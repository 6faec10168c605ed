"""What a loader reads either answers or ends in one typed error, at a cost that its own bytes bound.

Each example forges one file of a folder, or one file that is read alone, and seals the folder again, so that checksums are no help.
`CATALOG_TAGGER_FORGERIES` is the number of examples of all loaders together; with another number than the default they differ each time."""
import json, os
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from forging import forgeries, measured, no_hang
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.plain_text import HALF, UNSAFE
from catalog_tagger.core.sealed import SUMS, seal
from catalog_tagger.core.table import rejected_table, write_table
from catalog_tagger.catalog.images import Prep
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.catalog.readers.profiles import Profile
from catalog_tagger.runs.folder import Run
from catalog_tagger.search.embed import EMBEDDING_FILES, Embedder, _read_part, load_embeddings, write_embedder
from catalog_tagger.search.index import INDEX_FILES, SimilarIndex
from catalog_tagger.search.vectors import EmbeddingsError
from catalog_tagger.serve.decide import fit_decision
from catalog_tagger.serve.products import fit_products
from catalog_tagger.serve.tagger import BundleError, Tagger, _ANY_FILES, save_bundle
from catalog_tagger.serve.texts import fit_text_side
from catalog_tagger.train.backbones import find_arch
from catalog_tagger.train.checkpoint import read_state, write_state
from catalog_tagger.train.heads import build_model

DEFAULT = 500
EXAMPLES = int(os.environ.get('CATALOG_TAGGER_FORGERIES', DEFAULT))
ARCH = 'test_efficientnet'   # timm's smallest
PHOTO = np.asarray(Image.linear_gradient('L').resize((40, 40)).convert('RGB'))
HEAD = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=256, out_features=6, bias=True)]

def unit(n, d): v = np.random.default_rng(0).normal(size=(n, d)); return (v/np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)

def write_bundle(d):
    vocab, r = ['Apparel', 'Shoes', 'Red', 'Blue', 'Heels', 'new'], np.random.default_rng(0)
    space = LabelSpace(vocab, dict(master=vocab[:2], colour=vocab[2:4]), {'Heels': 'Shoes'},
                       {o: dict(label=o, count=3, rule='kept') for o in vocab}, {'': [dict(step='alias', to={'Red': ['crimson']})]},
                       ends=['Shoes'])
    scores, targs = r.random((60, 6)), np.eye(6, dtype=int)[r.integers(0, 6, 60)]
    tagger = Tagger(build_model(find_arch(ARCH), HEAD)[0], space, Prep((32, 32), (.5,)*3, (.25,)*3), 'sigmoid', arch=ARCH,
                    decision=fit_decision(scores, targs, space), products=fit_products(scores, targs, [i//2 for i in range(60)], space))
    save_bundle(tagger, d, facts=dict(seed=1), metrics={'recall@3': dict(score=.5, low=.4, high=.6, nothing=0., commonest=.3)})

def write_text_bundle(d):
    "As `write_bundle`, with texts and without products, whose file has the same decision."
    write_bundle(d); tagger = Tagger.load(d); r = np.random.default_rng(0); shown = r.integers(0, 2, (60, 2))
    targs = np.zeros((60, 6)); targs[np.arange(60)[:, None], shown + [0, 2]] = 1
    text = [f'{("Jacket", "Shoe")[a]} {("red", "blue")[b]}' for a, b in shown]
    rows = pd.DataFrame(dict(text=text, product=[f'p{i}' for i in range(60)], unit=range(60), split=['train', 'valid']*30))
    tagger.texts = fit_text_side(rows, targs, r.random((30, 6)), tagger.space, columns=['title'], masked=['shoe'])
    tagger.products = None; save_bundle(tagger, d)

def embedder():
    model = build_model(find_arch(ARCH), HEAD + [dict(layer='UnitLength')])[0]
    return Embedder(model.eval(), Prep((32, 32), (.5,)*3, (.25,)*3), ARCH)

def write_index(d, kind='ivf_sq8'):
    table = pd.DataFrame(dict(image=[f'{i:03}.jpg' for i in range(120)], year=[2010 + i % 9 for i in range(120)],
                              product=[f'p{i//3}' for i in range(120)], colour=['Red', 'Blue', None]*40,
                              labels=[['Shoe', 'Red'], [], ['Bag']]*40))
    SimilarIndex.build(unit(120, 6), table, kind=kind, embedder=embedder()).save(d)

def write_vectors(d):
    np.save(d/'vectors.npy', unit(20, 6)); (d/'ids.json').write_text(json.dumps([f'{i}.jpg' for i in range(20)]))
    write_table(d/'rejected.csv', rejected_table([('x.jpg', 3, 'empty file')])); write_embedder(embedder(), d); seal(d, EMBEDDING_FILES)

def write_run(d):
    RunConfig('shop', 'run', clean=('entities',)).save(d/'config.json')
    LabelSpace(['Red', 'Blue', 'Sky'], dict(colour=['Red', 'Blue']), {'Sky': 'Blue'}, {}).save(d/'labels.json')
    one = dict(score=.5, low=.4, high=.6)
    (d/'metrics.json').write_text(json.dumps(dict(valid=dict(f1=one), test=dict(f1=one), seconds=1.,
                                                   pictures=dict(train=3, valid=1, test=1))))
    (d/'history.csv').write_text('stage,epoch,valid_loss\nfrozen,1,0.5\n')
    (d/'rejected.csv').write_text('image,row,reason\na.jpg,1,empty\n')

def answers_of(tagger):
    res = [tagger.predict(PHOTO), tagger.predict_products([PHOTO]*2, ['p', 'p']), repr(tagger), tagger.card,
           tagger.space.encode(['crimson', 'Red'])]
    assert not UNSAFE.search(json.dumps(res[0], ensure_ascii=False))
    return res

def text_answers_of(tagger):
    if tagger.texts is None: return answers_of(tagger)      # whoever leaves out both files has a bundle without texts
    texts = ['Red jacket', None, 'blue <b>jacket</b>', 'red '*1000]
    res = [tagger.predict(texts=texts[0]), tagger.predict([PHOTO]*4, texts=texts), repr(tagger), repr(tagger.texts)]
    assert np.isfinite(tagger.scores_with_texts([PHOTO]*4, texts)[0]).all() and not UNSAFE.search(json.dumps(res[:2], ensure_ascii=False))
    return res

def searched(index):
    first = index.table['image'][0]
    return [index.search(first, k=3), index.search(index.vectors[0], k=3, per='product'), index.duplicates(.9, 3), repr(index)]

def opened(d):
    run = Run.open(d)
    return [run.config, run.labels, run.metrics, run.history, run.rejected, repr(run)]

# Loader → its files, how they are sealed, the loader with a use of what it returns, its error, and its part of the examples
LOADERS = dict(
    bundle=(write_bundle, _ANY_FILES, lambda d: answers_of(Tagger.load(d)), BundleError, .36),
    texts=(write_text_bundle, _ANY_FILES, lambda d: text_answers_of(Tagger.load(d)), BundleError, .12),
    index=(write_index, INDEX_FILES, lambda d: searched(SimilarIndex.load(d)), EmbeddingsError, .24),
    graph=(lambda d: write_index(d, 'hnsw'), INDEX_FILES, lambda d: searched(SimilarIndex.load(d)), EmbeddingsError, .1),
    embeddings=(write_vectors, EMBEDDING_FILES, lambda d: load_embeddings(d).embedder([PHOTO]), EmbeddingsError, .08),
    run=(write_run, None, opened, CatalogError, .08),
    checkpoint=(lambda d: write_state(d/'state.safetensors', dict(step=3, weights=[torch.ones(4)], names=['a'])), None,
                lambda d: read_state(d/'state.safetensors'), CatalogError, .06),
    profile=(lambda d: Profile('an export', ['id', 'image'], ['image'], labels=['colour']).save(d/'mine.json'), None,
             lambda d: Profile.load(d/'mine.json'), CatalogError, .05),
    part=(lambda d: np.savez(d/'0.npz', vectors=unit(5, 4), why=np.array(['']*5)), None,
          lambda d: _read_part(d/'0.npz', 'vectors'), CatalogError, .03))

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Name of a loader → its files, a folder to forge them in, and the cost of reading what is honest."
    torch.manual_seed(0); res = {}
    for name, (write, _, use, *_) in LOADERS.items():
        d = tmp_path_factory.mktemp(name)/'it'; d.mkdir(); write(d); use(d)
        with measured() as cost: use(d)
        files = {o.name: o.read_bytes() for o in d.iterdir()}
        res[name] = SimpleNamespace(d=d, files=files, bytes=sum(map(len, files.values())), cost=cost)
    return res

def write_forged(d, files, sealed):
    for o in d.iterdir(): o.unlink()
    for name, data in files.items(): (d/name).write_bytes(data)
    if sealed: seal(d, sealed)

@pytest.mark.parametrize('name', LOADERS)
def test_it_answers_or_ends_in_one_error(name, folders):
    _, sealed, use, error, share = LOADERS[name]; honest = folders[name]; seen = dict(answered=0, refused=0)

    @settings(max_examples=max(5, round(EXAMPLES*share)), deadline=None, database=None, derandomize=EXAMPLES == DEFAULT,
              suppress_health_check=list(HealthCheck))
    @given(forgeries({k: o for k, o in honest.files.items() if k != SUMS}))
    def check(files):
        write_forged(honest.d, files, sealed); more = max(0, sum(map(len, files.values())) - honest.bytes)
        with no_hang(60), measured() as cost:
            try: use(honest.d); seen['answered'] += 1
            except error as e:
                seen['refused'] += 1; assert '\n' not in str(e) and str(e) and not HALF.search(str(e)), e
            except CatalogError as e: assert '\n' not in str(e) and not HALF.search(str(e)), e     # a search may be refused, too
        assert cost.peak < honest.cost.peak*2 + (32 << 20) + 60*more, (cost, honest.cost, more)
        assert cost.calls < honest.cost.calls*2 + 100_000 + more, (cost, honest.cost, more)

    check()
    assert seen['refused'] >= 3, seen
    if share > .05: assert seen['answered'] >= 1, seen

class IndexMachine(RuleBasedStateMachine):
    "An index that is added to, removed from, saved and loaded beside a dict of what it must contain."
    kinds, folder = ('exact', 'flat', 'hnsw', 'ivf_sq8'), None

    @initialize(kind=st.sampled_from(kinds), n=st.integers(40, 60))
    def build(self, kind, n):
        self.n, self.rows = 0, {}
        table, v = self.drawn(n); self.index = SimilarIndex.build(v, table, kind=kind)
        self.rows = dict(zip(table['image'], v))

    def drawn(self, n):
        ids = [f'{self.n + i}.jpg' for i in range(n)]; v = np.random.default_rng(self.n).normal(size=(n, 4)); self.n += n
        table = pd.DataFrame(dict(image=ids, labels=[['Red']]*n, score=[1]*n, group=[['a', 'b']]*n))
        return table, (v/np.linalg.norm(v, axis=1, keepdims=True)).astype('f4')

    @rule(n=st.integers(1, 9))
    def add(self, n): table, v = self.drawn(n); self.index.add(v, table); self.rows |= dict(zip(table['image'], v))

    @rule(data=st.data())
    def remove(self, data):
        gone = data.draw(st.lists(st.sampled_from(sorted(self.rows)), unique=True, max_size=9))
        if len(gone) == len(self.rows):
            with pytest.raises(CatalogError, match='all pictures'): self.index.remove(gone)
        else:
            self.index.remove(gone)
            for o in gone: del self.rows[o]

    @rule()
    def add_again(self):
        with pytest.raises(CatalogError, match='already in the index'):
            self.index.add(self.index.vectors[:1], self.index.table[:1].rename(columns={'source.score': 'score'}))

    @rule()
    def save_and_load(self): self.index = SimilarIndex.load(self.index.save(self.folder/'index'))

    @invariant()
    def holds_the_rows(self):
        assert self.index.table['image'].tolist() == list(self.rows) and np.allclose(self.index.vectors, list(self.rows.values()))
        assert (self.index.table['source.score'] == 1).all()

    @invariant()
    def finds_itself(self):
        name = next(iter(self.rows)); found = self.index.search(self.rows[name], k=1)
        if self.index.kind in ('exact', 'flat'): assert found['image'][0] == name
        assert len(found) == 1 and found['image'][0] in self.rows and len(self.index.search(name, k=2)) <= 2

def test_an_index_that_changes(tmp_path):
    pytest.importorskip('faiss', reason='three of the kinds are of FAISS')
    from hypothesis.stateful import run_state_machine_as_test
    IndexMachine.folder = tmp_path
    run_state_machine_as_test(IndexMachine, settings=settings(
        max_examples=max(8, EXAMPLES//25), stateful_step_count=8, deadline=None, database=None, derandomize=EXAMPLES == DEFAULT,
        suppress_health_check=list(HealthCheck)))
