"""Training survives: killed processes end with the weights of unbroken ones; NaN, full disks, Ctrl-C and foreign
checkpoints are told in a sentence.

Run as a script, `test_checkpoint.py FOLDER`, it trains: each run in a child of its own, which is killed where the run says."""
import errno, json, os, random, signal, subprocess, sys, warnings
from functools import partial
from pathlib import Path
from types import FunctionType

import fastai.metrics, numpy as np, pandas as pd, pytest, torch
from fastai.basics import (Adam, Callback, CrossEntropyLossFlat, DataLoaders, Learner, OptimWrapper, SGD, TfmdDL,
                           accuracy, nn, noop, params, set_seed)
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import *
from fastai.optimizer import ranger
from safetensors.torch import save_file

from catalog_tagger.train import checkpoint
from catalog_tagger.core.metrics import METRICS, Metric, find_metric
from catalog_tagger.train.checkpoint import DivergedError, KeepBest, StopOnNaN, clear_checkpoints, fit_stage, read_state, write_state
from catalog_tagger.core.files import CatalogError
from catalog_tagger.train.learner import History

RUNS = {  # name: how it trains, where it is killed, one moment after another, and how many epochs the last process finds done
    'plain': ('stages', (), 0), 'again': ('stages', (), 0), 'unbroken': ('stages', (), 0),
    'first batch': ('stages', ('batch 0',), 0),
    'in an epoch': ('stages', ('batch 2',), 2),
    'in validation': ('stages', ('valid 1',), 1),
    'in the unfrozen stage': ('stages', ('batch 5',), 5),
    'writing the first': ('stages', ('half 1',), 0),
    'writing the third': ('stages', ('half 3',), 2),
    'before the move': ('stages', ('whole 2',), 1),
    'writing the end of a stage': ('stages', ('half 4',), 3),
    'between the stages': ('stages', ('between',), 3),
    'writing the first of a stage': ('stages', ('half 5',), 3),
    'after early stopping': ('stages', ('end 2',), 7),
    'again and again': ('stages', ('valid 0', 'batch 1', 'half 1', 'batch 3', 'between', 'valid 4', 'batch 5'), 5),
    'tune plain': ('tune', (), 0),
    'tune frozen': ('tune', ('batch 1',), 1),
    'tune unfrozen': ('tune', ('valid 4', 'batch 5'), 5),
    'two plain': ('two', (), 0),
    'two': ('two', ('batch 1', 'between', 'batch 4'), 4),
    'back plain': ('back', (), 0),
    'back': ('back', ('batch 1', 'batch 3'), 3),
}
STOPS = [k for k, (_, kills, _) in RUNS.items() if kills]

# ---- the script: what is trained ----

def die(): os.kill(os.getpid(), signal.SIGKILL)

def kill_writing(moment):
    "Die in a write of a checkpoint: with `half` of the file on disk, or `whole` and not yet moved."
    what, n = moment.split() if ' ' in moment else (moment, 0)
    save, fsync, count = checkpoint.save_file, os.fsync, [0]
    def dying_save(tensors, p, meta):
        count[0] += 1
        save(tensors, p, meta)
        if (what, count[0]) == ('half', int(n)): os.truncate(p, os.path.getsize(p)//2); die()
    def dying_fsync(f):
        fsync(f)
        if (what, count[0]) == ('whole', int(n)): die()
    checkpoint.save_file, os.fsync = dying_save, dying_fsync

class Jittered(list):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x*(1 + .1*random.random() + .1*np.random.rand()) + .1*torch.randn(1), y

def small_learner(*cbs, n=48, opt_func=None, nan_row=None, **kw):
    "A tiny convnet in two groups over noisy pictures of two kinds; its transforms draw from all three generators."
    g = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 2
    x = torch.randn(n, 3, 8, 8, generator=g) + .3*y[:, None, None, None]
    if nan_row is not None: x[nan_row, 0, 0, 0] = float('nan')
    rows, m = list(zip(x, y)), n*2//3
    dls = DataLoaders(TfmdDL(Jittered(rows[:m]), bs=8, shuffle=True, num_workers=0), TfmdDL(rows[m:], bs=8, num_workers=0))
    body = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Sequential(nn.Dropout(.2), nn.Linear(8, 2))).to(memory_format=torch.channels_last)
    return Learner(dls, model, CrossEntropyLossFlat(), opt_func=opt_func or Adam, metrics=accuracy,
                   splitter=lambda m: [params(m[0]), params(m[1])], cbs=[History(), *cbs], **kw)

class Average(Callback):
    "A callback with a state of its own, as an average of weights has, that draws random numbers."
    trained = 0   # epochs of this process
    def before_fit(self): self.sum, self.draws = torch.zeros(()), []
    def after_train(self): Average.trained += 1
    def after_step(self): self.sum = self.sum + sum(p.sum() for p in self.model.parameters())
    def after_epoch(self): self.draws.append(random.random())
    def state(self): return dict(sum=self.sum, draws=self.draws)
    def set_state(self, d): self.sum, self.draws = d['sum'], d['draws']

class Kill(Callback):
    "Die at `moment`: in an epoch, in its validation, at the end of a fit. Epochs count from 0 over all fits."
    order = 70
    def __init__(self, moment, before=0): self.moment, self.before = moment, before
    def at(self, what, n): return self.moment == f'{what} {n}'
    def after_batch(self):
        if self.training and self.iter == 1 and self.at('batch', self.before + len(self.history.rows)): die()
    def before_validate(self):
        if self.at('valid', self.before + len(self.history.rows)): die()
    def after_fit(self):
        if self.at('end', 1 + (self.opt.frozen_idx == 0)): die()

def train(kind, folder, moment):
    "Train as `kind` says into `folder` and die at `moment`."
    kill_writing(moment)
    set_seed(1, reproducible=True)
    stage = (lambda learn, name, fit, folder: fit()) if folder.name == 'plain' else fit_stage
    avg = Average()
    if kind == 'stages':
        learn = small_learner(KeepBest('accuracy', patience=2), StopOnNaN(), Kill(moment), avg)
        learn.freeze()
        stage(learn, 'frozen', lambda: learn.fit_one_cycle(3, .05), folder)
        if moment == 'between': die()
        learn.unfreeze()
        stage(learn, 'unfrozen', lambda: learn.fit_one_cycle(8, slice(.01, .1), div=5.), folder)
    elif kind == 'tune':
        learn = small_learner(KeepBest('valid_loss', patience=3), StopOnNaN(), Kill(moment), avg, opt_func=SGD)
        stage(learn, 'tune', lambda: learn.fine_tune(4, .05, freeze_epochs=3), folder)
    elif kind == 'back':   # what has learned once has gradients of zero when it is frozen: it decays
        learn = small_learner(KeepBest(), Kill(moment), avg, wd=.5)
        stage(learn, 'all', lambda: learn.fit_one_cycle(2, .05), folder)
        learn.freeze()
        stage(learn, 'head', lambda: learn.fit_one_cycle(3, .05), folder)
    else:
        first = small_learner(KeepBest(), Kill(moment), avg)
        stage(first, 'first', lambda: first.fit_one_cycle(3, .05), folder)
        if moment == 'between': die()
        learn = small_learner(KeepBest(), Kill(moment, before=3), Average(), n=36)   # draws its own weights
        learn.model[0].load_state_dict(first.model[0].state_dict())
        stage(learn, 'second', lambda: learn.fit_flat_cos(3, .02), folder)
    rows = [{k: v for k, v in o.items() if k != 'seconds'} for o in learn.history.rows]
    hps = {k: [float(o) for o in v] for k, v in learn.recorder.hps.items()}
    draws = [random.random(), np.random.rand(), torch.rand(1).item(), learn.dls.train.rng.random()]
    told = dict(rows=rows, hps=hps, draws=draws, best=learn.keep_best.best_epoch, average=[avg.sum.item(), *avg.draws],
                values=[list(o) for o in learn.recorder.values],
                losses=[float(o) for o in learn.recorder.losses])
    write_state(folder/'result', dict(weights=learn.model.state_dict(), told=told, trained=Average.trained))

def in_child(*args)->int:
    "How a child that trains ended: 0, or minus the signal that killed it."
    if pid := os.fork(): return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try: train(*args); code = 0
    except BaseException: import traceback; traceback.print_exc()
    finally: sys.stdout.flush(); sys.stderr.flush(); os._exit(code)

def main(root:Path):
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    codes = {name: [in_child(kind, root/name, o) for o in (*kills, '')] for name, (kind, kills, _) in RUNS.items()}
    (root/'codes.json').write_text(json.dumps(codes))

# ---- the tests ----

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('runs')
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    done = subprocess.run([sys.executable, __file__, root], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (root/'codes.json').exists(), done.stderr
    results = {o: read_state(root/o/'result') for o in RUNS if (root/o/'result').exists()}
    return dict(root=root, codes=json.loads((root/'codes.json').read_text()), results=results, log=done.stderr)

def assert_same(a, b):
    assert a['told'] == b['told']
    assert a['weights'].keys() == b['weights'].keys()
    for k, v in a['weights'].items(): assert v.numpy().tobytes() == b['weights'][k].numpy().tobytes(), k

def test_same_seed_twice(runs): assert_same(runs['results']['again'], runs['results']['unbroken'])

def test_a_checkpoint_changes_nothing(runs): assert_same(runs['results']['plain'], runs['results']['unbroken'])

def test_early_stopping_and_best_epoch_are_active(runs):
    told = runs['results']['unbroken']['told']
    unfrozen = [o for o in told['rows'] if o['stage'] == 'unfrozen']
    scores = [o['accuracy'] for o in unfrozen]
    assert len(unfrozen) < 8 and told['best'] == scores.index(max(scores)) == len(scores) - 3

@pytest.mark.parametrize('name', STOPS)
def test_killed_and_resumed(runs, name):
    kind, kills, done = RUNS[name]
    assert runs['codes'][name] == [-signal.SIGKILL]*len(kills) + [0], runs['log']
    got, whole = runs['results'][name], runs['results']['plain' if kind == 'stages' else f'{kind} plain']
    assert_same(got, whole)
    assert got['trained'] == whole['trained'] - done
    assert sorted(o.suffix for o in (runs['root']/name).iterdir()).count('.tmp') == 0

@pytest.fixture()
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); yield

def seeded(*cbs, **kw):
    set_seed(1, reproducible=True)
    learn = small_learner(*cbs, **kw); learn.remove_cb(ProgressCallback); learn.logger = noop
    return learn

def weights(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}

def equal(a, b): return all((a[k] == b[k]).all() for k in a)

def plant_at(learn, row, value): list.__getitem__(learn.dls.train.dataset, row)[0][0, 0, 0] = value

class TestNaN:
    @pytest.mark.parametrize('epochs_before', [0, 1])
    def test_planted_in_a_picture(self, quiet, epochs_before, tmp_path):
        class Plant(Callback):
            before = None
            def before_epoch(self):
                if self.epoch == epochs_before and not self.before: self.before = weights(self.learn); plant_at(self, 5, float('nan'))
        plant = Plant(); learn = seeded(plant, StopOnNaN())
        with pytest.raises(DivergedError, match=r'^the loss is not finite in epoch \d of 3, step \d of train; .*: row 5$') as e:
            learn.fit(3, .01)
        assert e.value.exit_code == 3 and e.value.pictures == ('row 5',)
        assert 'Try a learning rate below 0.01 or another loss, or check the pictures whose input is not finite' in str(e.value)
        assert equal(weights(learn), plant.before)
        assert len(learn.history.rows) == epochs_before
        plant_at(learn, 5, 0.)
        learn.fit(1, .01)   # and the learner can go on
        assert len(learn.history.rows) == epochs_before + 1

    def test_a_row_of_valid(self, quiet):
        learn = seeded(StopOnNaN(), nan_row=47)
        with pytest.raises(DivergedError, match=r'of valid; .*: row 15$'): learn.fit(1, .01)

    def test_weights(self, quiet):
        "The loss is finite, its gradient is not."
        class Poison(Callback):
            steps = 0
            def before_step(self):
                self.steps += 1
                if self.steps == 3: next(self.model[1].parameters()).grad[0, 0] = float('inf')
        poison = Poison(); learn = seeded(poison, StopOnNaN()); before = weights(learn)
        with pytest.raises(DivergedError, match='the weights are not finite in epoch 1 of 1, step 3 of train') as e: learn.fit(1, .01)
        assert len(e.value.pictures) == 8 and poison.steps == 3 and equal(weights(learn), before)
        assert all(torch.isfinite(o).all() for o in learn.opt.state.values() for o in o.values() if isinstance(o, torch.Tensor))

    def test_names_the_pictures_of_a_table(self, quiet):
        learn = seeded(StopOnNaN(), nan_row=4)
        learn.dls.train.items = pd.DataFrame(dict(image=[f'shop/{i}.jpg' for i in range(32)]))
        with pytest.raises(DivergedError, match=r': shop/4\.jpg$'): learn.fit(1, .01)

    def test_with_the_best_epoch_and_a_checkpoint(self, quiet, tmp_path):
        class Late(Callback):
            def before_epoch(self):
                if self.epoch == 2: plant_at(self, 0, float('nan'))
        learn = seeded(Late(), KeepBest(), StopOnNaN())
        with pytest.raises(DivergedError): fit_stage(learn, 'a', lambda: learn.fit(4, .01), tmp_path)
        assert read_state(tmp_path/'a.safetensors')['start'] == 2
        assert abs(learn.validate()[0] - min(o['valid_loss'] for o in learn.history.rows)) < 1e-6

    def test_lr_find_and_get_preds_are_let_be(self, quiet, tmp_path):
        learn = seeded(StopOnNaN(), nan_row=47, path=tmp_path)
        learn.lr_find(show_plot=False, num_it=8)
        assert len(learn.get_preds()[0]) == 16

class TestKeepBest:
    @pytest.mark.parametrize('monitor', ['train_loss', 'valid_loss', 'accuracy'])
    def test_best_of_the_table(self, quiet, monitor):
        keep = KeepBest(monitor); learn = seeded(keep); learn.fit(4, .1)
        told = learn.history.table()[monitor]
        assert keep.best_epoch == (told.idxmin() if 'loss' in monitor else told.idxmax()) and len(told) == 4
        if monitor != 'train_loss': assert abs(learn.validate()[1 if monitor == 'accuracy' else 0] - told[keep.best_epoch]) < 1e-6

    def test_validate_and_lr_find_do_not_count(self, quiet, tmp_path):
        keep = KeepBest('accuracy', patience=1); learn = seeded(keep, path=tmp_path); learn.fit(2, .1)
        best, after = keep.best, weights(learn)
        learn.validate(); learn.get_preds()
        assert keep.best == best and equal(weights(learn), after)
        learn.lr_find(show_plot=False, num_it=6)
        assert equal(weights(learn), after)

    @pytest.mark.parametrize('greater', [True, False])
    def test_the_table_says_which_way_is_better(self, quiet, monkeypatch, greater):
        "And not a word in the name."
        def lossless(pred, targ): return (pred.argmax(1) == targ).float().mean()
        with pytest.raises(CatalogError, match="it is not known whether higher or lower 'lossless' is better"):
            learn = seeded(KeepBest('lossless')); learn.metrics = [lossless]; learn.fit(1)
        monkeypatch.setitem(METRICS, 'lossless', Metric('share that is right', greater_is_better=greater))
        keep = KeepBest('lossless'); learn = seeded(keep); learn.metrics = [lossless]; learn.fit(4, .1)
        told = learn.history.table()['lossless']
        assert told.nunique() > 1 and keep.best == (told.max() if greater else told.min())

    def test_fastais_own_metrics_have_a_direction(self):
        "Those of scikit-learn as it says it: a score is to rise, a loss to fall."
        made = [getattr(fastai.metrics, o) for o in fastai.metrics.__all__ if o.startswith(('rmse', 'exp_')) or o[0].isupper()]
        names = [getattr(o() if isinstance(o, (type, FunctionType)) else o, 'name')
                 for o in made if o not in (fastai.metrics.AccumMetric, fastai.metrics.LossMetric, fastai.metrics.LossMetrics,
                                            fastai.metrics.FBeta, fastai.metrics.FBetaMulti)]
        assert len(names) > 25
        for o in names: assert find_metric(o).greater_is_better == (not o.endswith(('_loss', 'rmse', 'rmspe', 'perplexity'))), o
        for name in ('error_rate', 'mse', 'mae', 'msle'): assert not find_metric(name).greater_is_better
        for name in ('accuracy', 'accuracy_multi', 'top_k_accuracy', 'foreground_acc'): assert find_metric(name).greater_is_better

    def test_never_a_number(self, quiet, monkeypatch):
        def nothing(pred, targ): return float('nan')
        monkeypatch.setitem(METRICS, 'nothing', Metric('no number'))
        keep = KeepBest('nothing', patience=2); learn = seeded(keep); learn.metrics = [nothing]
        learn.fit(5, .01)
        assert keep.best is None and len(learn.history.rows) == 2

    def test_unknown(self, quiet):
        with pytest.raises(CatalogError, match="^'f1' is not recorded; the best epoch can be chosen by train_loss, valid_loss, accuracy$"):
            seeded(KeepBest('f1')).fit(1)

def stage(folder, n_epoch=3, *cbs, config=None, **kw):
    learn = seeded(*cbs, **kw)
    fit_stage(learn, 'a', lambda: learn.fit_one_cycle(n_epoch, .05), folder, config=config)
    return learn

def interrupted(folder, error=RuntimeError, epoch=2, **kw):
    "A stage that stopped in `epoch`."
    class Stop(Callback):
        def before_validate(self):
            if self.epoch == epoch: raise error('stop')
    with pytest.raises(error) as e: stage(folder, 3, Stop(), **kw)
    return e.value

class TestFaults:
    @pytest.mark.parametrize('code', [errno.ENOSPC, errno.EACCES])
    def test_a_write_that_fails(self, quiet, tmp_path, monkeypatch, code):
        whole = weights(stage(tmp_path/'whole'))
        save, count = checkpoint.save_file, [0]
        def full(tensors, p, meta):
            count[0] += 1
            if count[0] == 3: Path(p).write_bytes(b'half'); raise OSError(code, os.strerror(code), str(p))
            save(tensors, p, meta)
        with monkeypatch.context() as m:
            m.setattr(checkpoint, 'save_file', full)
            says = f'^the checkpoint .* cannot be written: .*({os.strerror(code)}|no space is left)'
            with pytest.raises(CatalogError, match=says): stage(tmp_path/'full')
        assert [o.name for o in (tmp_path/'full').iterdir()] == ['a.safetensors']
        assert read_state(tmp_path/'full'/'a.safetensors')['start'] == 2
        assert equal(weights(stage(tmp_path/'full')), whole)

    def test_a_folder_that_is_a_file(self, quiet, tmp_path):
        (tmp_path/'f').touch()
        with pytest.raises(CatalogError, match='cannot be written'): stage(tmp_path/'f')

    def test_ctrl_c(self, quiet, tmp_path):
        whole = weights(stage(tmp_path/'whole'))
        assert 'finished epochs and stages are kept in' in str(interrupted(tmp_path/'c', KeyboardInterrupt))
        assert equal(weights(stage(tmp_path/'c')), whole)

    def test_ctrl_c_in_a_write(self, quiet, tmp_path, monkeypatch):
        save, count = checkpoint.save_file, [0]
        def stop(tensors, p, meta):
            count[0] += 1; save(tensors, p, meta)
            if count[0] == 2: raise KeyboardInterrupt
        with monkeypatch.context() as m:
            m.setattr(checkpoint, 'save_file', stop)
            with pytest.raises(KeyboardInterrupt, match='continue with resume'): stage(tmp_path)
        assert [o.name for o in tmp_path.iterdir()] == ['a.safetensors'] and read_state(tmp_path/'a.safetensors')['start'] == 1

    def test_every_second_epoch(self, quiet, tmp_path):
        whole = weights(stage(tmp_path/'whole', 4))
        class Stop(Callback):
            def before_validate(self):
                if self.epoch == 3: raise RuntimeError('stop')
        for cbs in ([Stop()], []):
            learn = seeded(*cbs)
            try: fit_stage(learn, 'a', lambda: learn.fit_one_cycle(4, .05), tmp_path/'two', every=2)
            except RuntimeError: assert read_state(tmp_path/'two'/'a.safetensors')['start'] == 2
        assert equal(weights(learn), whole)

    def test_torch_optimisers(self, quiet, tmp_path):
        adamw = partial(OptimWrapper, opt=torch.optim.AdamW)
        whole = weights(stage(tmp_path/'whole', opt_func=adamw))
        interrupted(tmp_path/'a', opt_func=adamw)
        assert equal(weights(stage(tmp_path/'a', opt_func=adamw)), whole)

    def test_optimisers_with_weights_of_their_own(self, quiet, tmp_path):
        with pytest.raises(CatalogError, match='^Lookahead has its own copy of the weights'): stage(tmp_path, opt_func=ranger)

class TestForeign:
    @pytest.fixture()
    def file(self, quiet, tmp_path):
        interrupted(tmp_path, config=dict(size=64))
        return tmp_path/'a.safetensors'

    def fails(self, file, says, n_epoch=3, *cbs, config=dict(size=64), **kw):
        with pytest.raises(CatalogError) as e: stage(file.parent, n_epoch, *cbs, config=config, **kw)
        assert says in str(e.value) and 'start again without resume' in str(e.value) and '\n' not in str(e.value)

    @pytest.mark.parametrize('keep', [0, 7, 100, -1, -400])
    def test_cut(self, file, keep):
        file.write_bytes(file.read_bytes()[:keep]); self.fails(file, 'is damaged')

    def test_garbage(self, file):
        for junk in (b'junk'*1000, b'\x80\x04\x95' + bytes(50), b'\xff'*64): file.write_bytes(junk); self.fails(file, 'is damaged')

    def test_a_folder(self, file): file.unlink(); file.mkdir(); self.fails(file, 'is damaged')

    @pytest.mark.parametrize('state',
                             ['{"dict": ', 'null', '[]', '"a"', '{}', '{"dict": {}}', '{"tensor": "none"}', '['*100_000,
                              '{"dict": {"facts": {"dict": {}}, "n_fits": "x"}}'])
    def test_header(self, file, state):
        save_file(dict(w=torch.ones(1)), file, dict(format='catalog_tagger checkpoint 1', state=state)); self.fails(file, str(file))

    def test_other_safetensors(self, file):
        save_file(dict(w=torch.ones(1)), file); self.fails(file, 'is not a checkpoint of this version')

    def test_other_config(self, file): self.fails(file, 'size was 64 and is 128', config=dict(size=128))

    def test_other_length(self, file): self.fails(file, 'epochs was 3 and is 5', 5)

    def test_other_pictures(self, file): self.fails(file, 'train pictures was 32 and is 40', n=60)

    def test_other_callbacks(self, file):
        self.fails(file, 'keep_best was absent and is there', 3, KeepBest())

    def test_fewer_fits(self, file):
        write_state(file, read_state(file) | dict(n_fits=2)); self.fails(file, 'is in fit 2 of stage a, which has 1')

    @pytest.mark.parametrize('where, value', [
        (('model', '1.1.weight'), None), (('model', '1.1.weight'), torch.zeros(3, 3)), (('opt', 'slots'), []),
        (('opt', 'slots', -1, 'grad_avg'), torch.zeros(9)), (('opt', 'hypers'), []),
        (('opt', 'has_grad'), [True]), (('opt',), {}), (('rng', 'python'), [3, [1], None]), (('rng', 'torch'), 'x'),
        (('rng', 'loaders'), []), (('callbacks',), {}), (('train_iter',), None), (('start',), 9), (('start',), 0)])
    def test_inside(self, file, where, value):
        "A well-formed file with something wrong in one place, or missing there."
        state = read_state(file); d = state
        for k in where[:-1]: d = d[k]
        if value is None: del d[where[-1]]
        else: d[where[-1]] = value
        write_state(file, state); self.fails(file, 'is damaged')

def test_clear(tmp_path):
    (tmp_path/'c').mkdir()
    for o in ('a.safetensors', '.b.safetensors.12.tmp', 'notes.txt'): (tmp_path/'c'/o).touch()
    clear_checkpoints(tmp_path/'c'); assert [o.name for o in (tmp_path/'c').iterdir()] == ['notes.txt']
    (tmp_path/'c'/'notes.txt').unlink(); clear_checkpoints(tmp_path/'c'); clear_checkpoints(tmp_path/'c')
    assert not (tmp_path/'c').exists()

if __name__ == '__main__': main(Path(sys.argv[1]))
