"One table of settings: its checks, and that nothing in the library has defaults or choices of its own."
import importlib, inspect, pkgutil
from dataclasses import MISSING, fields

import pytest

import catalog_tagger
from catalog_tagger.core.config import EmbedSettings, IndexSettings, RunConfig, choices
from catalog_tagger.core.files import CatalogError

DEFAULTS = {f.name: f.default for f in fields(RunConfig) if f.default is not MISSING}

# ---- defaults

OTHERS = {   # A function or a module, and its parameter that only shares the name of a field → what it is
    ('testing.', 'size'): 'side of what is drawn, or of a tiny model', ('testing.', 'seed'): 'of what is drawn',
    ('testing.', 'bs'): 'of a tiny learner',
    ('testing.', 'delim'): 'what a drawn file is written with', ('catalog.cells.join_tags', 'delim'): 'what a cell is written with',
    ('apps.tour.demo_run', 'size'): 'a quick tour', ('apps.tour.demo_run', 'epochs'): 'a quick tour',
    ('apps.cli.compare', 'arch'): 'several architectures',
    ('train.backbones.find_arch', 'size'): 'of no pictures, when only the architecture is asked for',
    ('catalog.text.', 'min_count'): 'of words, not of labels', ('catalog.labels.LabelSpace', 'recipe'): 'the recipe itself, not its file',
    ('train.learner.TrainFacts', 'tta'): 'its scores are those of get_preds until asked',
    ('serve.predictor.Predictor', 'tta'): 'likewise', ('serve.tagger.Tagger', 'tta'): 'likewise',
    ('core.records.', 'where'): 'the file of a message', ('serve.tagger.Tagger', 'arch'): 'of a model that is given',
    ('serve.calibrate.fit_calibration', 'method'): 'of calibration', ('serve.decide.fit_decision', 'method'): 'of calibration',
    ('report.plots.flat_map', 'method'): 'of projection',
    ('search.embed.make_embedder', 'size'): 'none is asked for of a tagger', ('runs.index.', 'size'): 'likewise of a run',
    ('search.retrieval.query_scores', 'weights'): 'of labels', ('search.triplets.MultiLabelSupCon', 'weights'): 'of pairs',
    ('search.triplets.CollapseGuard', 'patience'): 'with a collapsed embedding',
    ('search.triplets.embedding_learner', 'dropout'): 'a linear head',
    ('search.contrastive.contrastive_dls', 'bs'): 'strangers to compare with',
    ('search.contrastive.contrastive_dls', 'min_scale'): 'two crops of one picture',
    ('search.contrastive.contrastive_dls', 'cache'): 'a folder', ('train.data.catalog_dls', 'cache'): 'a folder',
    ('search.contrastive.contrastive_learner', 'lr'): "fastai's own",
    ('train.backbones.Arch', 'size'): 'that it was trained on', ('train.activations.', 'bs'): 'None is that of the learner',
    ('report.interpret.heat_maps', 'bs'): 'pictures times tags',
    ('core.config.', 'max_pixels'): 'None is that of the run', ('runs.', 'max_pixels'): 'likewise',
    ('apps.cli.tag', 'max_pixels'): 'likewise', ('apps.cli.evaluate', 'max_pixels'): 'likewise',
    ('catalog.readers.profiles.Profile', 'product'): 'the columns of an export',
    ('train.checkpoint.KeepBest', 'monitor'): 'none is not a choice there', ('train.data.PictureCacheDL', 'bs'): "fastai's own",
    ('train.data.PictureCacheDL', 'num_workers'): "fastai's own"}

def functions():
    "Every public function of the package, its classes and their public methods, by dotted name."
    for m in pkgutil.walk_packages(catalog_tagger.__path__, 'catalog_tagger.'):
        if m.name.endswith('._modidx'): continue
        try: module = importlib.import_module(m.name)
        except ModuleNotFoundError: continue   # needs an extra that is not installed
        for name in getattr(module, '__all__', ()):
            o, at = getattr(module, name), f'{m.name.removeprefix("catalog_tagger.")}.{name}'
            if not callable(o) or getattr(o, '__module__', None) != m.name: continue
            yield at, o
            methods = vars(o).items() if inspect.isclass(o) else ()
            yield from ((f'{at}.{k}', getattr(v, '__func__', v)) for k, v in methods if not k.startswith('_')
                        and inspect.isfunction(getattr(v, '__func__', v)))

def parameters(f):
    try: return inspect.signature(f).parameters.values()
    except (ValueError, TypeError): return ()   # of builtins, such as what an error class is made with

def test_every_function_takes_its_defaults_from_the_config():
    found, used = [], set()
    for at, f in functions():
        for p in parameters(f):
            if p.name not in DEFAULTS or p.default is p.empty or p.default == DEFAULTS[p.name]: continue
            excuse = next((o for o in OTHERS if at.startswith(o[0]) and p.name == o[1]), None)
            used.add(excuse)
            if excuse is None: found.append(f'{at}: {p.name}={p.default!r}, the config has {DEFAULTS[p.name]!r}')
    assert not found, '\n'.join(found)
    assert len(list(functions())) > 300 and set(OTHERS) <= used, set(OTHERS) - used

def test_what_bears_another_name_has_the_same_default():
    from catalog_tagger.catalog.labels import fit_labels
    from catalog_tagger.catalog.split import split_catalog
    def default(f, name): return inspect.signature(f).parameters[name].default
    assert default(fit_labels, 'min_count') == RunConfig.label_min_count
    assert default(split_catalog, 'fractions')[1:] == (RunConfig.valid_fraction, RunConfig.test_fraction)
    assert (EmbedSettings.size, EmbedSettings.weights) == (RunConfig.size, RunConfig.weights)

# ---- choices

def test_choices_are_what_the_rooms_know():
    from catalog_tagger.catalog.images import fit_image
    from catalog_tagger.catalog.readers.imaterialist import _label_kinds
    from catalog_tagger.catalog.text import find_words
    from catalog_tagger.core.metrics import find_metric
    from catalog_tagger.train.backbones import BUNDLED
    from catalog_tagger.train.losses import LOSSES, find_optimiser
    from catalog_tagger.train.schedule import find_mix
    from PIL import Image
    assert set(LOSSES) == set(choices('loss')) and RunConfig.arch == BUNDLED
    for o in choices('opt'): find_optimiser(o)
    for o in choices('mix'): find_mix(o)
    for o in choices('method'): assert fit_image(Image.new('RGB', (9, 4)), (8, 8), o).size == (8, 8)
    for o in choices('words'): assert set(find_words(['red'], lang=o)) >= {'item', 'word'}
    for o in choices('garments'): _label_kinds(o)
    for o in choices('monitor'): assert find_metric(o) is not None
    for find in (find_optimiser, find_mix, lambda o: fit_image(Image.new('RGB', (9, 4)), (8, 8), o)):
        with pytest.raises(CatalogError): find('none of them')

# ---- checks

@pytest.mark.parametrize('given, says', [
    (dict(size='64'), "size='64', expected 8 to 4096"), (dict(size=64.), 'size=64.0, expected'),
    (dict(cache=1), 'cache=1, expected True or False'), (dict(flip=float('nan')), 'flip=nan, expected 0 to 1'),
    (dict(lr_mult=float('inf')), 'lr_mult=inf, expected'), (dict(test_values=(2016,)), 'test_values='),
    (dict(label_columns='a'), "label_columns='a', expected a list of text"),
    (dict(monitor='recall@5'), "monitor='recall@5', expected valid_loss or"), (dict(bs=True), 'bs=True'),
    (dict(arch=None), 'arch=None, expected text'), (dict(seed=-1), 'seed=-1'),
])
def test_a_wrong_value_is_refused(given, says):
    with pytest.raises(CatalogError) as e: RunConfig('shop', 'run', **given)
    assert says in str(e.value)

def test_no_setting_of_an_index_is_free_of_checks():
    for wrong in (dict(dims=0), dict(size=1), dict(recall=0), dict(whiten=2)):
        with pytest.raises(CatalogError): IndexSettings(**wrong)

def test_an_older_config_is_read_and_a_newer_one_is_not(tmp_path):
    from catalog_tagger.core.files import write_json
    old = {k: v for k, v in RunConfig('shop', 'run', size=64).to_dict().items() if k not in ('tta', 'near', 'views')}
    write_json(tmp_path/'config.json', old)
    assert RunConfig.load(tmp_path/'config.json') == RunConfig('shop', 'run', size=64)
    write_json(tmp_path/'config.json', old | dict(colour_space='lab'))
    with pytest.raises(CatalogError, match='colour_space'): RunConfig.load(tmp_path/'config.json')
