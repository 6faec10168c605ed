"The activation cache: parts that make the whole, files that are found again or made anew, training that is the same."
import os, random, resource, subprocess, sys
from pathlib import Path

import numpy as np, pytest, timm, torch
from fastai.vision.all import SGD, PILImage, Rotate, TimmBody, Transform, create_head, load_learner, nn, set_seed
from PIL import Image

from catalog_tagger.train.activations import *
from catalog_tagger.train.activations import _build_rows, _read_rows
from catalog_tagger.core.files import CatalogError
from catalog_tagger.catalog.images import fit_image
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.catalog.labels import apply_labels, fit_labels
from catalog_tagger.testing.tiny import tiny_catalog
from catalog_tagger.train.learner import catalog_learner
from catalog_tagger.train.backbones import arch_prep

LITE = 'efficientnet_lite0'
SCRATCH = dict(weights=None)

@pytest.fixture(scope='module')
def shop(tmp_path_factory): return tiny_catalog(tmp_path_factory.mktemp('shop')/'shop', 48)

def learner(shop, path, arch=LITE, size=32, dls_args={}, **kwargs):
    set_seed(42, reproducible=True)
    df, space = shop
    return catalog_learner(catalog_dls(df, space, arch_prep(arch, size), bs=8, **dls_args), arch, path=path, **kwargs)

def files(folder): return {o.name: (o.stat().st_ino, o.stat().st_size) for o in Path(folder).iterdir()}

class FitTrain(Transform):
    "Training pictures as those of validation."
    order,split_idx = 1,0
    def __init__(self, prep): self.prep = prep
    def encodes(self, x:PILImage): return type(x)(fit_image(x, self.prep.size, self.prep.method))

class Passes:
    "Counts the pictures that go through the body of a learner."
    def __init__(self, learn): self.n = 0; learn.model[0].register_forward_hook(self.count)
    def count(self, m, args, out): self.n += len(args[0])

@pytest.mark.parametrize('arch,some',
                         [('resnet18', ['layer4', 'layer4.1', 'layer3', 'bn1']),
                          ('mobilenet_v2', ['features.18', 'features.14', 'features.1']),
                          (LITE, ['blocks.6', 'blocks.5', 'conv_head']), ('mobilenetv3_small_050', ['blocks.5', 'blocks.1']),
                          ('convnext_atto', ['stages.3', 'stages.1']), ('resnext50_32x4d', ['layer4'])])
def test_the_parts_make_the_whole(shop, tmp_path, arch, some):
    model = learner(shop, tmp_path, arch, **SCRATCH).model
    points, x = split_points(model), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        model.train()(x); model.eval()     # running statistics that are not 0 and 1
        assert points[0] == 'pool' and set(some) <= set(points), points
        for at in ['pool', *some]:
            lower, upper = split_at(model, at)
            torch.testing.assert_close(upper(lower(x)), model(x), rtol=1e-4, atol=1e-5)
            below, above, all_ = ({id(o) for o in m.parameters()} for m in (lower, upper, model))
            # the model's own, none twice; timm nets may hold some that they never use
            assert below | above <= all_ and not below & above
    sizes = [sum(o.numel() for o in split_at(model, at)[1].parameters()) for at in points]
    assert sizes == sorted(sizes)

def test_a_body_with_a_forward_of_its_own_parts_at_pool_alone():
    vit = timm.create_model('vit_tiny_patch16_224', img_size=64, num_classes=0)
    model = nn.Sequential(TimmBody(vit), create_head(vit.num_features, 7, pool=False)).eval()
    lower, upper = split_at(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(): torch.testing.assert_close(upper(lower(x)), model(x), rtol=1e-4, atol=1e-5)
    assert split_points(model) == ['pool']
    with pytest.raises(CatalogError, match="'blocks.5' is unknown; this model has pool: its body does more"): split_at(model, 'blocks.5')

def test_an_unknown_split_point_is_told_with_the_known(shop, tmp_path):
    with pytest.raises(CatalogError, match="'layer4' is unknown; this model has pool, bn2, conv_head, blocks.6, blocks.5"):
        cached_learner(learner(shop, tmp_path), 'layer4')
    assert not (tmp_path/'cache').exists()

def test_asking_leaves_the_model_as_it_was(shop, tmp_path):
    model = learner(shop, tmp_path).model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    split_points(model); split_at(model, 'blocks.6')
    assert all(o.training for o in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

def test_cached_training_is_frozen_training(shop, tmp_path):
    "Same order, no dropout, no augmentation: the numbers of one epoch are those of a frozen body."
    plain = dict(item_tfms=[FitTrain(arch_prep(LITE, 32))], batch_tfms=[])
    # Adam makes full steps of rounding errors
    frozen, learn = (learner(shop, tmp_path, dls_args=plain, dropout=0., opt_func='sgd') for _ in range(2))
    cached = cached_learner(learn, folder=tmp_path/'cache')
    before = learn.get_preds()[0]
    for o in (frozen, cached): o.dls.train.rng = random.Random(7); o.fit_one_cycle(1, .05)
    np.testing.assert_allclose(cached.recorder.values, frozen.recorder.values, atol=1e-3)
    torch.testing.assert_close(learn.get_preds()[0], frozen.get_preds()[0], rtol=0, atol=1e-3)
    for ours, theirs in zip(learn.model.state_dict().values(), frozen.model.state_dict().values()):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert [o['stage'] for o in learn.history.rows] == [o['stage'] for o in frozen.history.rows]
    assert (learn.get_preds()[0] - before).abs().max() > .05

@pytest.mark.parametrize('at,views', [('pool', 1), ('pool', 2), ('blocks.5', 2)])
def test_the_joined_learner_has_learned(shop, tmp_path, at, views):
    learn = learner(shop, tmp_path)
    cached = cached_learner(learn, at, views, folder=tmp_path/'cache')
    below = {k: v.clone() for k, v in split_at(learn.model, at)[0].state_dict().items()}
    means = {k: v.clone() for k, v in learn.model[0].state_dict().items() if 'running' in k}
    first = learn.get_preds()[0]
    cached.fine_tune(2, 1e-2, lr_mult=4)
    preds, targs = cached.get_preds()
    torch.testing.assert_close(preds, learn.get_preds()[0], rtol=0, atol=1e-3)
    assert torch.equal(targs, learn.get_preds()[1]) and (preds - first).abs().max() > .05
    assert all(torch.equal(v, below[k]) for k, v in split_at(learn.model, at)[0].state_dict().items())
    assert all(torch.equal(learn.model[0].state_dict()[k], v) for k, v in means.items())
    if at != 'pool': assert cached.opt.hypers[0]['lr'] < cached.opt.hypers[-1]['lr']

def test_a_learner_goes_on_after_the_cache(shop, tmp_path):
    learn = learner(shop, tmp_path)
    cached_learner(learn, folder=tmp_path/'cache').fit_one_cycle(1, 1e-2)
    learn.unfreeze(); learn.fit_one_cycle(1, 1e-3)
    assert [o['stage'] for o in learn.history.rows] == ['frozen', 'unfrozen']
    assert [o['pictures'] for o in learn.history.rows] == [24, 48]

def test_export_of_the_joined_learner(shop, tmp_path):
    learn = learner(shop, tmp_path)
    cached_learner(learn, 'blocks.6', folder=tmp_path/'cache').fit_one_cycle(1, 1e-2)
    im = shop[0]['image'][0]
    want = learn.predict(im)[2]
    learn.export(tmp_path/'learner.pkl')
    torch.testing.assert_close(load_learner(tmp_path/'learner.pkl').predict(im)[2], want, rtol=0, atol=1e-5)

def test_three_groups_keep_their_rates(shop, tmp_path):
    "fastai parts a ResNet into three groups; above layer4 the first is empty and the rates of the others stay."
    learn = learner(shop, tmp_path, 'resnet18', **SCRATCH)
    cached = cached_learner(learn, 'layer4', folder=tmp_path/'cache')
    cached.fit(1, slice(1e-4, 1e-2)); learn.opt.set_hyper('lr', slice(1e-4, 1e-2))
    assert [len(o) > 0 for o in cached.opt.param_lists] == [False, True, True]
    assert [o['lr'] for o in cached.opt.hypers] == [o['lr'] for o in learn.opt.hypers]

def test_one_label_a_picture(tmp_path):
    learn = learner(tiny_catalog(tmp_path/'shop', 48, label_columns=['masterCategory']), tmp_path)
    cached = cached_learner(learn, views=2, folder=tmp_path/'cache')
    cached.fit_one_cycle(1, 1e-2)
    np.testing.assert_allclose(cached.validate(), learn.validate(), atol=1e-3)

def test_files_are_found_again(shop, tmp_path):
    folder, seen = tmp_path/'cache', []
    for _ in range(2):
        learn = learner(shop, tmp_path); passes = Passes(learn)
        cached = cached_learner(learn, views=2, folder=folder)
        seen.append(passes.n); after = torch.rand(1), random.random()
        if len(seen) == 1: first, kept, drawn = cached.dls.valid.one_batch()[0], files(folder), after
    n = shop[0]['split'].value_counts()
    assert seen == [2*n['train'] + n['valid'], 0]
    assert files(folder) == kept and drawn == after     # found or made, what is drawn later is the same
    assert torch.equal(first, cached.dls.valid.one_batch()[0])
    learn.fit(1, 1e-2)                                                  # transforms remember what they drew last
    assert cached_learner(learn, views=2, folder=folder) and files(folder) == kept

def test_a_part_that_has_learned_since_is_told(shop, tmp_path):
    learn = learner(shop, tmp_path); cached = cached_learner(learn, folder=tmp_path/'cache')
    learn.unfreeze(); learn.fit(1, 1e-3)
    with pytest.raises(CatalogError, match='was trained after its activations were cached'): cached.fit(1)
    cached_learner(learn, folder=tmp_path/'cache').fit(1)

def test_other_labels_need_no_other_activations(shop, tmp_path):
    df, _ = shop
    learn = learner(shop, tmp_path); cached_learner(learn, folder=tmp_path/'cache')
    kept = files(tmp_path/'cache')
    fewer = df.assign(tags=[o[:1] for o in df['tags']]); space = fit_labels(fewer)
    cached = cached_learner(learner((apply_labels(fewer, space)[0], space), tmp_path), folder=tmp_path/'cache')
    assert files(tmp_path/'cache') == kept
    assert cached.dls.one_batch()[1].shape[-1] != learn.dls.one_batch()[1].shape[-1]

def test_what_changed_is_made_anew(tmp_path):
    df, space = tiny_catalog(tmp_path/'shop', 48)
    def new(learn, folder=tmp_path/'cache', **kwargs):
        before = files(folder) if folder.exists() else {}
        cached_learner(learn, folder=folder, **kwargs)
        return len(files(folder).keys() - before.keys())
    learn = learner((df, space), tmp_path)
    assert new(learn, views=2) == 2 and new(learn, views=2) == 0
    assert new(learn, views=3) == 1                                    # valid stays
    assert new(learn, views=2, seed=1) == 1                            # plain pictures have no seed
    assert new(learner((df, space), tmp_path, dls_args=dict(batch_tfms=[Rotate(max_deg=11)])), views=2) == 1
    assert new(learner((df, space), tmp_path, size=40), views=2) == 2
    with torch.no_grad(): learn.model[0].model.conv_stem.weight[0, 0, 0, 0] += .1
    assert new(learn, views=2) == 2
    im = df['image'][np.flatnonzero(df['split'] == 'valid')[0]]
    Image.new('RGB', (60, 80), 'red').save(im)
    assert new(learn, views=2) == 1
    assert new(learner((df.assign(digest=[str(i) for i in df.index]), space), tmp_path)) == 2
    os.utime(im, (0, 0))
    assert new(learner((df.assign(digest=[str(i) for i in df.index]), space), tmp_path)) == 0   # a digest says more than a time

@pytest.mark.parametrize('left', [0, 60, 5000])
def test_a_truncated_file_is_made_anew(shop, tmp_path, left):
    learn = learner(shop, tmp_path)
    want = cached_learner(learn, folder=tmp_path).dls.valid.one_batch()[0]
    for f in tmp_path.glob('*.npy'): os.truncate(f, left)
    assert torch.equal(cached_learner(learn, folder=tmp_path).dls.valid.one_batch()[0], want)

def test_rows_that_overflow_half_precision_are_written_in_full(tmp_path):
    f = tmp_path/'rows.npy'
    _build_rows(f, lambda: [torch.ones(2, 3), torch.ones(1, 3)], 3)
    assert _read_rows(f, 3).dtype == np.float16 and _read_rows(f, 3).shape == (3, 3) and _read_rows(f, 4) is None
    _build_rows(f, lambda: [torch.full((1, 3), 1e6)], 1)
    assert _read_rows(f, 1).dtype == np.float32
    with pytest.raises(CatalogError, match='weights are damaged'): _build_rows(f, lambda: [torch.full((1, 3), torch.nan)], 1)

def test_a_killed_build_leaves_nothing(shop, tmp_path):
    learn = learner(shop, tmp_path)
    def stop(*args): raise KeyboardInterrupt
    hook = learn.model[0].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt): cached_learner(learn, folder=tmp_path/'cache')
    assert not files(tmp_path/'cache')
    hook.remove(); cached_learner(learn, folder=tmp_path/'cache')

def test_no_room_on_the_disk(shop, tmp_path):
    learn, before = learner(shop, tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CatalogError, match='activations cannot be written to .*; free disk space or use another folder'):
            cached_learner(learn, folder=tmp_path/'cache')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not files(tmp_path/'cache')

def test_two_processes_at_once(shop, tmp_path):
    script = tmp_path/'build.py'
    script.write_text(f'''
import sys
from catalog_tagger.all import *
from catalog_tagger.train.activations import *
from catalog_tagger.testing.tiny import labelled
df, space = labelled({str(Path(shop[0]["image"][0]).parents[1])!r})
set_seed(42)
learn = catalog_learner(catalog_dls(df, space, arch_prep('{LITE}', 32), bs=8))
print('ready', flush=True); sys.stdin.readline()
cached = cached_learner(learn, views=2, folder={str(tmp_path/"cache")!r})
print(sum(x.double().sum().item() for x, _ in cached.dls.valid))
''')
    both = [subprocess.Popen([sys.executable, '-W', 'ignore', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    for p in both: assert p.stdout.readline() == 'ready\n'
    for p in both: p.stdin.write('go\n'); p.stdin.flush()
    told = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and told[0] == told[1]
    assert len(files(tmp_path/'cache')) == 2                            # no second file, nothing temporary
    kept = files(tmp_path/'cache')
    cached_learner(learner(shop, tmp_path), views=2, folder=tmp_path/'cache')
    assert files(tmp_path/'cache') == kept                              # a third process finds them

def test_lr_find_and_callbacks(shop, tmp_path):
    cached = cached_learner(learner(shop, tmp_path), folder=tmp_path/'cache')
    before = [o.clone() for o in cached.model.parameters()]
    assert 1e-7 < cached.lr_find(show_plot=False, num_it=10).valley < 10
    assert not cached.history.rows and all(torch.equal(a, b) for a, b in zip(before, cached.model.parameters()))

def test_half_precision_is_refused_on_a_cpu(shop, tmp_path):
    learn = learner(shop, tmp_path, dls_args=dict(device=torch.device('cpu')))
    for half in (learn.to_fp16, learn.to_bf16):
        with pytest.raises(CatalogError, match='half precision is refused on a CPU'): cached_learner(half(), folder=tmp_path/'cache')
        learn.to_fp32()
    cached_learner(learn, folder=tmp_path/'cache')
