"Bad pictures get a reason, odd ones are opened right, and nothing outside of the root is read."
import numpy as np, pandas as pd, pytest

from catalog_tagger.core.files import CatalogError
from catalog_tagger.testing.demo import FAULTS, demo_folders, demo_styles
from catalog_tagger.catalog.images import audit_images, open_image
from catalog_tagger.catalog.read import read_catalog

bad = dict(missing='missing', empty='empty file', truncated='truncated', html='not an image', bomb='too large', outside='leads outside')
odd = [o for o in FAULTS if o not in bad]

def read(root):
    catalog = read_catalog(root)
    df, unread = catalog.df, catalog.rejected
    good, unusable = audit_images(df)
    return good, pd.concat([unread, unusable], ignore_index=True)

@pytest.mark.parametrize('write', [demo_styles, demo_folders])
@pytest.mark.parametrize('fault', bad)
def test_bad_picture_is_rejected_with_its_reason(write, fault, tmp_path):
    clean, none = read(write(tmp_path/'clean', n=60))
    good, rejected = read(write(tmp_path/'c', n=60, faults=(fault,)))
    assert len(none) == 0 and len(good) == len(clean) and len(rejected) == 1
    assert bad[fault] in rejected['reason'][0]

@pytest.mark.parametrize('fault', odd)
def test_odd_picture_is_used(fault, tmp_path):
    good, rejected = read(demo_styles(tmp_path/'c', n=60, faults=(fault,)))
    assert len(rejected) == 0 and len(good) == 61
    pixels = np.asarray(open_image(good['image'].iloc[-1]))
    assert pixels.shape[2] == 3 and 20 < pixels.mean() < 250, 'neither black nor white'

def test_all_at_once(tmp_path):
    good, rejected = read(demo_styles(tmp_path/'c', n=60, faults=tuple(FAULTS)))
    assert (len(good), len(rejected)) == (60 + len(odd), len(bad))
    assert (good['row'].tolist() + rejected['row'].tolist()) and set(good['row']) | set(rejected['row']) == set(range(60 + len(FAULTS)))

def test_nothing_usable(tmp_path):
    from catalog_tagger.core.config import RunConfig
    from catalog_tagger.catalog.prepare import prepare_catalog
    (tmp_path/'c'/'images').mkdir(parents=True)
    (tmp_path/'c'/'styles.csv').write_text('id,masterCategory,subCategory,articleType\n' + ''.join(f'{i},A,B,C\n' for i in range(9)))
    with pytest.raises(CatalogError, match=r'no picture of the catalog can be used: missing: no such file \(9 times\)'):
        prepare_catalog(RunConfig(str(tmp_path/'c'), 'x'))

def test_a_stray_folder_beside_the_folds_is_told(tmp_path):
    "`train` and `validation` would be taken for classes."
    root = demo_folders(tmp_path/'c', n=60)
    (root/'docs').mkdir(); (root/'docs'/'logo.jpg').touch()
    with pytest.raises(CatalogError, match='train/ and docs/'): read_catalog(root)

def test_a_linked_class_folder_is_told(tmp_path):
    root = demo_folders(tmp_path/'c', n=60, validation=0.)
    (tmp_path/'elsewhere').mkdir(); (root/'boots').symlink_to(tmp_path/'elsewhere')
    rejected = read_catalog(root).rejected
    assert rejected['reason'].tolist() == ['a link to a folder, which is not followed']

def test_an_open_quote_swallows_no_rows(tmp_path):
    root = demo_styles(tmp_path/'c', n=60)
    lines = (root/'styles.csv').read_text().splitlines()
    (root/'styles.csv').write_text('\n'.join(lines[:20] + [lines[20].rsplit(',', 1)[0] + ',"never closed'] + lines[21:]) + '\n')
    with pytest.raises(CatalogError, match='line 61: unexpected end of data'): read_catalog(root)
