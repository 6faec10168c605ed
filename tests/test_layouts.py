"Every layout that the demo catalog writes goes from its files to labels in three folds."
import pytest

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import SPLITS
from catalog_tagger.testing.demo import demo_feidegger, demo_folders, demo_imaterialist, demo_onehot, demo_posts, demo_styles, demo_tags
from catalog_tagger.apps.check import catalog_facts
from catalog_tagger.catalog.prepare import prepare_catalog

writers = dict(styles=demo_styles, folders=demo_folders, onehot=demo_onehot, tags=demo_tags, imaterialist=demo_imaterialist, feidegger=demo_feidegger)

@pytest.mark.parametrize('layout', writers)
def test_from_files_to_labels(layout, tmp_path):
    cfg = RunConfig(str(writers[layout](tmp_path/'c', n=80)), str(tmp_path/'r'), words='de' if layout == 'feidegger' else None)
    catalog, space = prepare_catalog(cfg)[:2]
    df, rejected = catalog.df, catalog.rejected
    assert len(df) + len(rejected) == 80 and len(df) > 70
    for fold in SPLITS: assert {l for o in df['labels'][df['split'] == fold] for l in o} == set(space.vocab)
    facts = catalog_facts(cfg)
    assert facts['layout'] == layout and facts['split']['duplicates_across'] == 0
    assert bool(space.exclusive) == (layout in ('styles', 'folders')) and bool(space.parents) == (layout in ('styles', 'imaterialist'))

def test_untagged_posts_are_kept_apart(tmp_path):
    catalog = prepare_catalog(RunConfig(str(demo_posts(tmp_path/'c', n=90)), str(tmp_path/'r'))).catalog
    df, rejected = catalog.df, catalog.rejected
    assert (rejected['reason'] == 'no tags').sum() == 30 and df['labels'].map(len).min() > 0

def test_descriptions_alone_ask_for_their_language(tmp_path):
    with pytest.raises(CatalogError, match='--words de'): prepare_catalog(RunConfig(str(demo_feidegger(tmp_path/'c', n=30)), str(tmp_path/'r')))
