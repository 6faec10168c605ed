"""Embedding a catalog: vectors are those of the model, bad pictures are rows, a killed job goes on.

Run as a script, `test_embed.py FOLDER`, it embeds in children of its own, which are killed where `KILLS` says."""
import json, os, signal, subprocess, sys
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from processes import in_child
from PIL import Image
from torch import nn

from catalog_tagger.catalog import picture_files
from catalog_tagger.core import jobs
from catalog_tagger.search import embed
from catalog_tagger.core.files import CatalogError, read_json, write_json
from catalog_tagger.core.process import rng
from catalog_tagger.search.embed import (Embedder, LAYERS, embed_catalog, fit_projection, load_embeddings,
                                         make_embedder, project, with_projection)
from catalog_tagger.catalog.images import Prep
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.train.backbones import arch_prep, find_arch
from catalog_tagger.train.heads import build_model
from catalog_tagger.search.vectors import EmbeddingsError
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.serve.tagger import Tagger, save_bundle

ARCH, HOW = 'mobilenetv3_small_050', dict(bs=4, chunk=8, workers=1)
KILLS = {'unbroken': (), 'embedding': ('embed 6',), 'writing a part': ('part 3',), 'before a part is moved': ('move 3',),
         'after a part is moved': ('moved 3',), 'again and again': ('embed 3', 'part 2', 'embed 2', 'moved 2', 'finish 1'),
         'putting together': ('finish 1',), 'removing the parts': ('remove 1',)}

def make(layer='avg', seed=0):
    torch.manual_seed(seed)
    head = [dict(layer='ConcatPool'), dict(layer='Flatten'), dict(layer='BatchNorm1d', num_features=576, eps=1e-5),
            dict(layer='Linear', in_features=576, out_features=8, bias=True), dict(layer='ReLU'),
            dict(layer='Dropout', p=.5), dict(layer='Linear', in_features=8, out_features=3, bias=True)]
    tagger = Tagger(build_model(find_arch(ARCH), head)[0].eval(), LabelSpace(['a', 'b', 'c'], {}, {}, {}), arch_prep(ARCH, 32), arch=ARCH)
    return tagger if layer is None else make_embedder(tagger, layer)

def make_shop(folder, n=44):
    "`n` pictures of noise, of which three cannot be used."
    folder.mkdir(parents=True)
    for i in range(n): Image.fromarray(rng(i, 'embed').integers(256, size=(9, 7 + i % 3, 3), dtype=np.uint8)).save(folder/f'{i:03}.png')
    (folder/'001.png').write_bytes(b''); (folder/'017.png').write_text('<html>')
    (folder/'040.png').write_bytes((folder/'041.png').read_bytes()[:50])
    return folder

def die(*args, **kw): os.kill(os.getpid(), signal.SIGKILL)

def dying(f, n, after=False):
    "`f`, which kills the process in its `n`-th call or after it."
    count = [0]
    def run(*args, **kw):
        count[0] += 1
        if count[0] == n and not after: die()
        res = f(*args, **kw)
        if count[0] == n: die()
        return res
    return run

def half_part(parts, n, files): jobs.part_path(parts, n, '.npz').with_name(f'.{n}.tmp').write_bytes(b'PK'); die()

def kill_at(moment):
    what, n = moment.split(); n = int(n)
    if what == 'embed': Embedder.embed_opened = dying(Embedder.embed_opened, n)
    if what == 'part':
        write, count = jobs.write_part, [0]
        jobs.write_part = lambda *a: (count.append(0), half_part(*a) if len(count) == n + 1 else write(*a))
    if what in ('move', 'moved'): os.replace = dying(os.replace, n, what == 'moved')
    if what == 'finish': embed.seal = die
    if what == 'remove': jobs.remove_parts = lambda p: (next(p.glob('*.npz')).unlink(), die())

def embed_killed(folder, name, moment):
    torch.set_num_threads(1)
    if moment: kill_at(moment)
    embed_catalog(make(), folder/'shop', folder/name, dims=6, dtype='float16', **HOW)

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    d = tmp_path_factory.mktemp('kills')
    r = subprocess.run([sys.executable, __file__, str(d)], env=os.environ | dict(OMP_NUM_THREADS='1'), text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    return d

@pytest.mark.parametrize('name', [o for o in KILLS if KILLS[o]])
def test_a_killed_job_ends_as_an_unbroken_one(killed, name):
    assert json.loads((killed/'ends.json').read_text())[name] == [signal.SIGKILL]*len(KILLS[name]) + [0]
    for o in ('vectors.npy', 'ids.json', 'rejected.csv', 'embedder.json', 'SHA256SUMS'):
        assert (killed/name/o).read_bytes() == (killed/'unbroken'/o).read_bytes(), o
    assert not (killed/f'{name}.parts').exists() and len(load_embeddings(killed/name).ids) == 41

@pytest.fixture(scope='module')
def shop(tmp_path_factory): return make_shop(tmp_path_factory.mktemp('embed')/'shop')

@pytest.fixture(scope='module')
def embedder(): return make()

def usable(shop): return [str(o) for o in sorted(shop.iterdir()) if o.name not in ('001.png', '017.png', '040.png')]

@pytest.mark.parametrize('how', [dict(bs=1, chunk=1), dict(bs=7, chunk=10), dict(bs=64, chunk=1000, workers=3)], ids=str)
def test_vectors_are_those_of_the_model(shop, embedder, tmp_path, how):
    e = embed_catalog(embedder, shop, tmp_path/'e', **how)
    assert e.ids == usable(shop) and e.rejected['row'].tolist() == [1, 17, 40]
    assert [o.split(':')[0] for o in e.rejected['reason']] == ['empty file', 'not an image', 'damaged or truncated']
    with torch.inference_mode():
        want = embedder.model[0](torch.from_numpy(np.stack([embedder.prep(o) for o in e.ids]))).mean((2, 3)).numpy()
    np.testing.assert_allclose(e.vectors, want/np.linalg.norm(want, axis=1, keepdims=True), atol=1e-4)

def test_the_model_of_the_caller_is_left_as_it_is_and_one_without_norms_does_the_work(shop, tmp_path, monkeypatch):
    embedder = make(); embedder.model.train(); before = {k: (v.clone(), v.stride()) for k, v in embedder.model.state_dict().items()}
    seen = []
    embed_opened = Embedder.embed_opened
    monkeypatch.setattr(Embedder, 'embed_opened', lambda self, pictures: seen.append(self.model) or embed_opened(self, pictures))
    e = embed_catalog(embedder, shop, tmp_path/'e', **HOW)
    assert all(o.training for o in embedder.model.modules()) and e.embedder is embedder
    assert all(v.equal(before[k][0]) and v.stride() == before[k][1] for k, v in embedder.model.state_dict().items())
    def norms(model): return sum(isinstance(o, nn.BatchNorm2d) for o in model.modules())
    assert norms(embedder.model) and not any(map(norms, seen))

@pytest.mark.parametrize('layer', LAYERS)
def test_each_layer_there_and_back(shop, tmp_path, layer):
    embedder = make(layer)
    e = embed_catalog(embedder, shop, tmp_path/'e', **HOW); back = load_embeddings(tmp_path/'e')
    np.testing.assert_array_equal(e.vectors, back.vectors)
    np.testing.assert_allclose(back.embedder(back.ids[:5]), back.vectors[:5], atol=1e-4)
    assert back.ids == e.ids and back.rejected['image'].tolist() == e.rejected['image'].tolist()

@pytest.mark.parametrize('how', [dict(dims=5), dict(dims=5, whiten=True), dict(whiten=True)], ids=str)
def test_projection_is_scikit_learns_and_a_query_goes_the_same_way(shop, embedder, tmp_path, how):
    from sklearn.decomposition import PCA
    e, plain = embed_catalog(embedder, shop, tmp_path/'e', **how, **HOW), embed_catalog(embedder, shop, tmp_path/'p', **HOW)
    want = PCA(how.get('dims', 41), whiten=how.get('whiten', False), svd_solver='covariance_eigh').fit_transform(np.array(plain.vectors))
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    k = 5 if 'dims' in how else 30     # the last of all components have no variance to speak of
    np.testing.assert_allclose(np.abs(e.vectors[:, :k]), np.abs(want[:, :k]), atol=.02 if 'dims' in how else 1)
    np.testing.assert_allclose(load_embeddings(tmp_path/'e').embedder(e.ids[:6]), e.vectors[:6], atol=2e-3 if 'dims' in how else 1e-2)

def test_a_table_gives_its_rows(shop, embedder, tmp_path):
    df = pd.DataFrame(dict(image=usable(shop)[::-2] + [str(shop/'gone.png')], price=1.))
    e = embed_catalog(embedder, df, tmp_path/'e', **HOW)
    assert e.ids == usable(shop)[::-2] and e.rejected['reason'].tolist() == ['missing: no such file']
    index = SimilarIndex.from_embeddings(e, df)
    assert index.table['price'].tolist() == [1.]*len(e.ids)
    with pytest.raises(CatalogError, match='the table has no row for'): SimilarIndex.from_embeddings(e, df[1:].reset_index(drop=True))

def test_a_picture_without_a_vector_is_a_row(shop, tmp_path):
    "A net that sees nothing gives zeros, which have no direction."
    class Blind(Embedder):
        def embed_opened(self, pictures): v = super().embed_opened(pictures); v[0] = 0; return v
    made = make()
    e = embed_catalog(Blind(made.model, made.prep, made.arch), shop, tmp_path/'e', bs=64, chunk=64)
    assert len(e.ids) == 40 and 'its vector is zero' in e.rejected['reason'][0] and e.rejected['image'][0].endswith('000.png')

def test_index_with_its_model_answers_the_same(shop, tmp_path):
    e = embed_catalog(make('concat'), shop, tmp_path/'i', dims=8, **HOW)
    index = SimilarIndex.from_embeddings(e); index.save(tmp_path/'i')
    again = SimilarIndex.load(tmp_path/'i')
    for q in (e.ids[3], Path(e.ids[3]), Image.open(e.ids[5]), Path(e.ids[9]).read_bytes(), again.vectors[2]):
        pd.testing.assert_frame_equal(index.search(q, 4), again.search(q, 4))
    assert again.search(again.vectors[3], 1)['image'].tolist() == [e.ids[3]] != again.search(Path(e.ids[3]), 1)['image'].tolist()
    assert again.rejected['reason'].tolist() == index.rejected['reason'].tolist()
    again.add(again.embedder([shop/'002.png']), ['new']); assert set(again.search('new', 1)['image']) == {str(shop/'002.png')}

@pytest.mark.parametrize('how, says',
                         [(dict(dtype='int8'), 'expected float32 or float16'), (dict(dims=0), 'dims=0, expected 1'),
                          (dict(dims=500), 'dims=500, expected 1 to 41'), (dict(bs=0), 'bs=0'), (dict(chunk=1.5), 'chunk=1.5')])
def test_wrong_options_are_told(shop, embedder, tmp_path, how, says):
    with pytest.raises(CatalogError, match=says): embed_catalog(embedder, shop, tmp_path/'e', **dict(HOW) | how)
    assert not (tmp_path/'e'/'vectors.npy').exists()

def test_what_was_begun_otherwise_is_told(shop, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(embed, '_finish', lambda *a: 1/0)
    with pytest.raises(ZeroDivisionError): embed_catalog(embedder, shop, tmp_path/'e', **HOW)
    monkeypatch.undo()
    with pytest.raises(CatalogError, match='head was'): embed_catalog(make('concat'), shop, tmp_path/'e', **HOW)
    opened = []; open_one = picture_files.open_picture
    monkeypatch.setattr(picture_files, 'open_picture', lambda *a: opened.append(a) or open_one(*a))
    assert len(embed_catalog(embedder, shop, tmp_path/'e', **HOW).ids) == 41 and not opened    # all parts were there
    assert len(embed_catalog(make('concat'), shop, tmp_path/'e', resume=False, **HOW).ids) == 41

def test_parts_of_another_version_are_not_resumed(shop, embedder, tmp_path, monkeypatch):
    "Those of the first version came from norms that were not folded: their last digits differ."
    with monkeypatch.context() as m:
        m.setattr(embed, '_finish', lambda *a: 1/0)
        with pytest.raises(ZeroDivisionError): embed_catalog(embedder, shop, tmp_path/'e', **HOW)
    f = tmp_path/'e.parts'/'manifest.json'; write_json(f, {k: o for k, o in read_json(f).items() if k != 'version'})
    with pytest.warns(UserWarning, match='version was None, is 2'): embed_catalog(embedder, shop, tmp_path/'e', **HOW)

def test_nothing_usable_and_nothing_ours(shop, embedder, tmp_path):
    (tmp_path/'bad').mkdir(); (tmp_path/'bad'/'a.jpg').touch()
    with pytest.raises(CatalogError, match='none of 1 pictures could be used; the first: .*a.jpg: empty file'):
        embed_catalog(embedder, tmp_path/'bad', tmp_path/'e')
    with pytest.raises(CatalogError, match='did not write them'): embed_catalog(embedder, shop, shop)
    with pytest.raises(EmbeddingsError, match='cannot be loaded: it is not a folder'): load_embeddings(tmp_path/'gone')
    with pytest.raises(CatalogError, match='no pictures to embed'): embedder([])

def test_a_head_of_ones_own_is_an_embedder(shop, tmp_path):
    "As metric learning leaves it: a body, and a head that ends in UnitLength."
    head = [dict(layer='AdaptiveAvgPool2d'), dict(layer='Flatten'), dict(layer='Linear', in_features=288, out_features=16, bias=True),
            dict(layer='ReLU'), dict(layer='Linear', in_features=16, out_features=4, bias=False), dict(layer='UnitLength')]
    e = embed_catalog(Embedder(build_model(find_arch(ARCH), head)[0].eval(), Prep((32, 32), (.5,)*3, (.25,)*3), ARCH), shop, tmp_path/'e',
                      **HOW)
    assert e.vectors.shape == (41, 4) and load_embeddings(tmp_path/'e').embedder.model[1][4].bias is None

def run_kills(folder):
    make_shop(folder/'shop')
    ends = {name: [in_child(embed_killed, folder, name, o)[0] for o in (*moments, None)] for name, moments in KILLS.items()}
    (folder/'ends.json').write_text(json.dumps(ends))

if __name__ == '__main__': run_kills(Path(sys.argv[1]))
