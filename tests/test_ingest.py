"What holds for any tags and any mask, not for the examples alone."
import json, unicodedata

import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import is_tags
from catalog_tagger.catalog.cells import join_tags, parse_tags
from catalog_tagger.catalog.masks import mask_to_rle, rle_share, rle_to_mask
from catalog_tagger.catalog.readers.imaterialist import read_garments

settings.register_profile('same', derandomize=True, deadline=None, max_examples=150)
settings.load_profile('same')

words = st.text(st.characters(exclude_categories=['Cc', 'Cs']) | st.sampled_from(';,|"\'[]{}# \n'), min_size=1, max_size=12)
clean = st.lists(words, max_size=6).map(parse_tags)                # Lists as the parser leaves them
delims = st.sampled_from([';', ',', ' ', '|', '\t', ' / ', '||', '.*', '#'])
cells = st.text(st.sampled_from('ab;,|"\'[]{}#\\ \t\n\0é\u0301'), max_size=30) | st.text(max_size=30)

@given(clean, delims)
def test_tags_round_trip(tags, delim):
    assert parse_tags(join_tags(tags, delim), delim) == tags

@given(cells, st.none() | delims)
def test_any_cell_gives_tags_or_one_error(cell, delim):
    try: tags = parse_tags(cell, delim)
    except CatalogError: return
    assert is_tags(tags) and parse_tags(tags) == tags, 'no empty tag; a second time changes nothing'
    assert len(set(tags)) == len(tags) and all(o == o.strip() == unicodedata.normalize('NFC', o).strip() for o in tags)

@given(st.lists(st.sampled_from(['a', 'b', 'A', 'é', 'e\u0301', ' ', 'navy blue']), max_size=6), st.randoms(use_true_random=False))
def test_order_decides_order_only(parts, random):
    shuffled = random.sample(parts, len(parts))
    assert set(parse_tags(';'.join(parts), ';')) == set(parse_tags(';'.join(shuffled), ';'))
    assert parse_tags(parts) == parse_tags(';'.join(parts), ';'), 'a list and a delimited cell mean the same'

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9))

@given(masks)
def test_rle_round_trip(mask):
    rle = mask_to_rle(mask)
    assert (rle_to_mask(rle, *mask.shape) == mask).all() and mask_to_rle(rle_to_mask(rle, *mask.shape)) == rle
    assert rle_share(rle, *mask.shape) == pytest.approx(mask.mean())

@given(masks)
def test_rle_against_a_plain_loop(mask):
    pixels = [bool(mask[y, x]) for x in range(mask.shape[1]) for y in range(mask.shape[0])]
    n = [int(o) for o in mask_to_rle(mask).split()]
    assert sorted(p for a, b in zip(n[::2], n[1::2]) for p in range(a, a + b)) == [i for i, o in enumerate(pixels, 1) if o]

@given(st.lists(st.integers(-2, 30), max_size=6).map(lambda o: ' '.join(map(str, o))) | st.text(max_size=12), st.integers(-1, 5),
       st.integers(-1, 5))
def test_any_rle_gives_a_mask_or_one_error(rle, height, width):
    try: mask = rle_to_mask(rle, height, width)
    except CatalogError: return
    assert mask.shape == (height, width) and mask.sum() == sum(int(o) for o in rle.split()[1::2])

@pytest.mark.parametrize('rle', ['1 2 5 1 ', ' 1 2 5 1', '1 2  5 1', '1 2 5 1\n', '1\t2 5 1', ' '])
def test_blanks_in_an_rle_do_not_count(tmp_path, rle):
    (tmp_path/'train').mkdir(); described = [dict(id=0, name='shirt', supercategory='upper')]
    (tmp_path/'label_descriptions.json').write_text(json.dumps(dict(categories=described, attributes=[])))
    (tmp_path/'train.csv').write_text(f'ImageId,EncodedPixels,Height,Width,ClassId,AttributesIds\na,"{rle}",2,3,0,\n')
    garments = read_garments(tmp_path, ['a'])
    want = [[1, 0, 1], [1, 0, 0]] if rle.strip() else [[0]*3]*2
    assert rle_to_mask(*garments.loc[0, ['rle', 'height', 'width']]).tolist() == np.array(want, bool).tolist()
    (tmp_path/'train.csv').write_text('ImageId,EncodedPixels,Height,Width,ClassId,AttributesIds\na,1 2 5 ,2,3,0,\n')
    assert len(read_garments(tmp_path, ['a'])) == 0      # an odd number, whatever the blanks

def test_masks_are_column_major():
    assert np.argwhere(rle_to_mask('3 1', 2, 4)).tolist() == [[0, 1]]
