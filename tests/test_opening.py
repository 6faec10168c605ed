"Pictures are opened as a person would see them, every file of a folder has a row, a net of a fixed input size fits its pictures."
import struct, zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image, ImageCms

from catalog_tagger.apps.cli import main
from catalog_tagger.catalog.images import (FORMATS, ImageError, METHODS, MOST_PIXELS, OPENING_VERSION, Prep, audit_images, fit_image,
                                           open_image, open_mask)
from catalog_tagger.catalog.masks import mask_to_rle
from catalog_tagger.catalog.picture_cache import cache_pictures
from catalog_tagger.catalog.picture_files import find_pictures
from catalog_tagger.catalog.readers.base import SUFFIXES
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.jobs import part_facts
from catalog_tagger.search.embed import load_embeddings
from catalog_tagger.serve.many import tag_many
from catalog_tagger.serve.tagger import Tagger, save_bundle
from catalog_tagger.testing.demo import demo_folders
from catalog_tagger.testing.tiny import TINY_ARCH, tiny_space, tiny_tagger
from catalog_tagger.train.data import OpenImage
from catalog_tagger.train.backbones import arch_prep, create_net, find_arch
from catalog_tagger.train.learner import catalog_model

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:PIL')    # on the broken metadata

def short(o): return repr(o)[:24]

def data(im, fmt='PNG', **kw):
    im.copy().save(b := BytesIO(), fmt, **kw)    # a copy, because saving leaves its options on the picture
    return b.getvalue()

def same(a, b): return np.array_equal(np.asarray(a), np.asarray(b))

def plain(colour, mode='RGB'): return Image.new(mode, (24, 16), colour)

# ---- colours: the expected values are computed from the primaries, without a profile ----

SRGB = np.array([[.64, .33], [.30, .60], [.15, .06]])          # Chromaticities x, y of red, green and blue
PRIMARIES = {'Display P3': [[.680, .320], [.265, .690], [.150, .060]], 'Adobe RGB': [[.64, .33], [.21, .71], [.15, .06]],
             'Rec. 2020': [[.708, .292], [.170, .797], [.131, .046]]}
D65, D50 = np.array([.95047, 1., 1.08883]), np.array([.96422, 1., .82521])
GAMMA = 563/256        # 2.2 as a profile stores it

def to_xyz(primaries):
    "The matrix from linear R, G, B to XYZ under D65, by its definition: the columns add up to white."
    xyz = np.array([[x/y, 1, (1 - x - y)/y] for x, y in primaries]).T
    return xyz*np.linalg.solve(xyz, D65)

def encode(linear):
    "sRGB's curve (IEC 61966-2-1), 0 to 255."
    linear = np.clip(linear, 0, 1)
    return 255*np.where(linear <= .0031308, 12.92*linear, 1.055*linear**(1/2.4) - .055)

def seen(colour, space):
    "What a colour of `space` is in sRGB."
    return encode(np.linalg.solve(to_xyz(SRGB), to_xyz(PRIMARIES[space]) @ (np.array(colour)/255)**GAMMA))

def xyz_tag(v): return b'XYZ \0\0\0\0' + b''.join(struct.pack('>i', round(o*65536)) for o in v)

def profile(kind, tags):
    "An ICC profile of version 2 with `tags`."
    body, table, at = b'', b'', 128 + 4 + 12*len(tags)
    for name, o in tags.items():
        o += bytes(-len(o) % 4); table += name + struct.pack('>II', at + len(body), len(o)); body += o
    head = bytearray(128); head[8:12] = b'\2\x10\0\0'; head[12:24] = b'mntr' + kind + b'XYZ '; head[36:40] = b'acsp'
    head[68:80] = xyz_tag(D50)[8:]; head[0:4] = struct.pack('>I', at + len(body))
    return bytes(head) + struct.pack('>I', len(tags)) + table + body

def gamma_tag(gamma): return b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma*256))

def rgb_profile(space):
    bradford = np.array([[.8951, .2664, -.1614], [-.7502, 1.7135, .0367], [.0389, -.0685, 1.0296]])
    columns = np.linalg.solve(bradford, np.diag(bradford @ D50/(bradford @ D65)) @ bradford) @ to_xyz(PRIMARIES[space])
    text = b'desc\0\0\0\0' + struct.pack('>I', 2) + b'x\0' + bytes(78)
    return profile(b'RGB ', {b'desc': text, b'cprt': b'text\0\0\0\0x\0', b'wtpt': xyz_tag(D50)}
                   | {k: xyz_tag(v) for k, v in zip((b'rXYZ', b'gXYZ', b'bXYZ'), columns.T)}
                   | {k: gamma_tag(GAMMA) for k in (b'rTRC', b'gTRC', b'bTRC')})

def grey_profile(gamma): return profile(b'GRAY', {b'wtpt': xyz_tag(D50), b'kTRC': gamma_tag(gamma)})

srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()

@pytest.mark.parametrize('colour', [(200, 30, 40), (30, 160, 90), (40, 60, 190), (128, 128, 128), (250, 240, 20)])
@pytest.mark.parametrize('space', PRIMARIES)
def test_a_wide_gamut_is_seen_in_srgb(space, colour):
    want = seen(colour, space); icc = rgb_profile(space)
    for im in (plain(colour), plain((*colour, 255), 'RGBA'), plain(colour).quantize(2)):
        assert np.abs(open_image(data(im, icc_profile=icc)).getpixel((9, 9)) - want).max() <= 2
    assert np.abs(open_image(data(plain(colour), icc_profile=icc), opening=1).getpixel((9, 9)) - np.array(colour)).max() == 0

SAVED = dict(JPEG=dict(quality=100, subsampling=0), WEBP=dict(lossless=True), TIFF={}, AVIF=dict(quality=100, subsampling='4:4:4'))

@pytest.mark.parametrize('fmt', SAVED)
def test_every_format_has_profiles(fmt):
    body = data(plain((30, 160, 90)), fmt, icc_profile=rgb_profile('Display P3'), **SAVED[fmt])
    for draft in (None, (4, 4)):
        got = open_image(body, draft=draft)
        assert np.abs(got.getpixel((1, 1)) - seen((30, 160, 90), 'Display P3')).max() <= 4   # a level of JPEG's rounding is two here

@pytest.mark.parametrize('how', ['L', 'LA', '16 bits'])
def test_a_grey_profile(how):
    im = {'L': plain(100, 'L'), 'LA': plain((100, 255), 'LA'), '16 bits': Image.fromarray(np.full((16, 24), 100*257, np.uint16))}[how]
    want = encode((100/255)**(round(1.8*256)/256))
    assert np.abs(np.array(open_image(data(im, icc_profile=grey_profile(1.8))).getpixel((3, 3))) - want).max() <= 2

@pytest.mark.parametrize('mode, colour', [('L', 100), ('RGB', (9, 90, 200)), ('CMYK', (0, 255, 255, 0)), ('1', 1), ('P', 3),
                                          ('LA', (100, 255)), ('YCbCr', (90, 90, 200)), ('LAB', (100, 10, 10))])
@pytest.mark.parametrize('icc', [b'', b'junk', srgb[:200], srgb[:-40], grey_profile(1.8)[:140], rgb_profile('Adobe RGB')[:300],
                                 b'\xff'*999], ids=short)
def test_an_invalid_profile_is_ignored(mode, colour, icc):
    im = plain(colour, mode); body = data(im, 'TIFF', icc_profile=icc)
    try: ImageCms.ImageCmsProfile(BytesIO(icc))
    except OSError: assert same(open_image(body), open_image(data(im, 'TIFF')))
    assert open_image(body).size == im.size

@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'CMYK', 'LA', 'YCbCr'])
def test_a_profile_of_other_channels_is_ignored(mode):
    im = plain((200, 30, 40)).convert(mode); fmt = 'PNG' if mode == 'LA' else 'TIFF'
    icc = grey_profile(1.8) if mode in ('P', 'CMYK', 'YCbCr') else rgb_profile('Adobe RGB')
    assert same(open_image(data(im, fmt, icc_profile=icc)), open_image(data(im, fmt)))

def test_srgb_is_not_changed():
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 24, 3), dtype=np.uint8))
    assert same(open_image(data(noise, icc_profile=srgb)), noise)

def test_transparency_stays_with_a_profile():
    im = plain((200, 30, 40, 255), 'RGBA'); im.paste((0, 0, 0, 0), (0, 0, 12, 16)); icc = rgb_profile('Adobe RGB')
    for body in (data(im, icc_profile=icc), data(im, 'WEBP', lossless=True, icc_profile=icc)):
        assert open_image(body).getpixel((3, 3)) == (255, 255, 255)
        assert np.abs(open_image(body).getpixel((20, 3)) - seen((200, 30, 40), 'Adobe RGB')).max() <= 2

@pytest.mark.parametrize('stored, shown', [(60_000, 22), (0, 255), (65_535, 0)])
def test_16_bits_with_white_as_zero(stored, shown):
    body = data(Image.fromarray(np.full((16, 24), stored, np.uint16)), 'TIFF', tiffinfo={262: 0})
    assert open_image(body).getpixel((3, 3)) == (shown,)*3       # (65535 - stored)/257
    assert open_image(body, opening=1).getpixel((3, 3)) == (255 - shown,)*3

# ---- TIFF, written by hand: each kind of numbers is right or refused by its name ----

NUMBERS = {(1, 8): 'u1', (1, 16): 'u2', (1, 32): 'u4', (2, 8): 'i1', (2, 16): 'i2', (2, 32): 'i4', (3, 16): 'f2', (3, 32): 'f4',
           (3, 64): 'f8'}

def tiff(x, bits, kind=1, white_is_zero=False, order='<', planes=False, packed=False, alpha=False):
    "A TIFF of `x`, shape (height, width, channels), in one strip, or one for each channel; `packed` compresses them."
    h, w, n = x.shape
    def strip(rows):
        if (kind, bits) in NUMBERS: body = rows.astype(order + NUMBERS[kind, bits]).tobytes()
        else:
            lines = [''.join(f'{o:0{bits}b}' for o in row) for row in rows.astype(int).tolist()]
            body = b''.join(int(o.ljust(-(-len(o)//8)*8, '0'), 2).to_bytes(-(-len(o)//8), 'big') for o in lines)
        return zlib.compress(body) if packed else body
    strips = [strip(x[..., i]) for i in range(n)] if planes else [strip(x.reshape(h, w*n))]
    colour = {1: 0 if white_is_zero else 1, 2: 0 if white_is_zero else 1, 3: 2, 4: 2}[n]
    tags = {256: ('I', [w]), 257: ('I', [h]), 258: ('H', [bits]*n), 259: ('H', [8 if packed else 1]), 262: ('H', [colour]),
            273: ('I', strips), 277: ('H', [n]), 278: ('I', [h]), 279: ('I', [len(o) for o in strips]), 284: ('H', [1 + planes])}
    tags |= ({338: ('H', [2])} if alpha else {}) | {339: ('H', [kind]*n)}
    end = 8 + 2 + 12*len(tags) + 4; more = end + sum(len(v)*struct.calcsize(t) for t, v in tags.values() if len(v)*struct.calcsize(t) > 4)
    at = [more + sum(map(len, strips[:i])) for i in range(len(strips))]; table, rest = b'', b''
    for tag, (t, v) in tags.items():
        body = struct.pack(f'{order}{len(v)}{t}', *(at if tag == 273 else v))
        table += struct.pack(f'{order}HHI', tag, dict(H=3, I=4)[t], len(v))
        table += body.ljust(4, b'\0') if len(body) <= 4 else struct.pack(f'{order}I', end + len(rest))
        rest += body if len(body) > 4 else b''
    return (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}IH', 8, len(tags)) + table + bytes(4) + rest + b''.join(strips)

def tiff_and_picture(bits, kind, white_is_zero, order, n, **kw):
    "A TIFF of random numbers, and the picture that they are, by definition: the largest number is white, alpha lies on white."
    share = np.random.default_rng(0).random((16, 24, n)); share[0, :2] = [[0], [1]]
    top = 1 if kind == 3 else 2**(bits - (kind == 2)) - 1
    stored = share if kind == 3 else (share*top).round()
    x = stored/top
    if white_is_zero: x[..., :1] = 1 - x[..., :1]
    if n in (2, 4): x = x[..., :-1]*x[..., -1:] + 1 - x[..., -1:]
    return tiff(stored, bits, kind, white_is_zero, order, alpha=n in (2, 4), **kw), np.broadcast_to(255*x, (16, 24, 3))

RIGHT = {(bits, 1, inverted) for bits in (1, 2, 4, 8, 16) for inverted in (False, True)} | {   # bits, channels, is white 0?
    (12, 1, False), (8, 2, False), (8, 3, False), (8, 4, False), (16, 3, False), (16, 4, False)}

@pytest.mark.parametrize('packed', [False, True], ids=['raw', 'packed'])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('bits, kind', [(1, 1), (2, 1), (4, 1), (8, 1), (12, 1), (16, 1), (32, 1), (8, 2), (16, 2), (32, 2), (16, 3),
                                        (32, 3), (64, 3)])
def test_a_tiff_of_any_numbers_is_right_or_named(bits, kind, order, packed):
    for n in (1, 2, 3, 4):
        for white_is_zero in {False, n < 3}:
            for planes in {False, n > 1}:
                body, want = tiff_and_picture(bits, kind, white_is_zero, order, n, planes=planes, packed=packed)
                try: got = np.asarray(open_image(body), float)
                except ImageError as e:
                    assert f'{n} x {bits} bits' in str(e) and 'save it' in str(e), e
                    assert ('floating' in str(e), 'signed' in str(e), 'white is 0' in str(e)) == (kind == 3, kind == 2, white_is_zero), e
                    assert kind != 1 or planes or order == '>' or (bits, n, white_is_zero) not in RIGHT, e
                else: assert np.abs(got - want).max() <= 3, (n, white_is_zero, planes)

def test_wrong_numbers_of_a_tiff_stay_under_the_rules_of_older_models():
    dark, want = tiff_and_picture(12, 1, False, '<', 1)
    assert np.abs(np.asarray(open_image(dark), float) - want).max() <= 1 and np.asarray(open_image(dark, opening=2)).max() <= 16
    signed, _ = tiff_and_picture(8, 2, False, '<', 1)
    assert open_image(signed, opening=2).size == (24, 16)
    with pytest.raises(ImageError, match='1 x 8 bits of signed numbers cannot be read'): open_image(signed)

# ---- pictures of phones ----

@pytest.fixture(scope='module')
def phone(tmp_path_factory):
    "A folder of pictures of 63 million pixels: a JPEG held upright, a progressive one and a PNG, and a small one."
    d = tmp_path_factory.mktemp('phone'); im = Image.new('RGB', (9000, 7000), 'white'); im.paste('red', (0, 0, 3000, 7000))
    exif = Image.Exif(); exif[0x0112] = 6
    im.save(d/'upright.jpg', exif=exif, quality=50); im.save(d/'progressive.jpg', progressive=True, quality=50)
    im.save(d/'a.png', compress_level=1); im.resize((90, 70)).save(d/'small.png')
    return d

def test_a_large_jpeg_is_decoded_at_reduced_size(phone):
    whole = open_image(phone/'upright.jpg')
    assert whole.size == (3500, 4500) and whole.getpixel((1700, 100))[1] < 60 and whole.getpixel((1700, 4400))[1] > 200    # red is on top
    assert open_image(phone/'upright.jpg', max_pixels=MOST_PIXELS).size == (7000, 9000)
    assert open_image(phone/'upright.jpg', max_pixels=1_000_000).size == (875, 1125)
    for name in ('upright.jpg', 'progressive.jpg'):
        small = Prep((32, 32), (.5,)*3, (.25,)*3).picture(phone/name)
        assert small.size == (32, 32) and small.getpixel((3, 3))[1] < 60 and small.getpixel((28, 28))[1] > 200

@pytest.mark.parametrize('name, limit, says', [
    ('a.png', 50_000_000, 'too large: 9000x7000 pixels, the limit is 50,000,000; save it smaller, or raise --max-pixels'),
    ('upright.jpg', 900_000, 'too large: 9000x7000 pixels, 1125x875 at an eighth of its size, the limit is 900,000'),
    ('progressive.jpg', 15_000_000, 'too large: 9000x7000 pixels, the limit is 60,000,000 for a progressive JPEG')])
def test_what_is_too_large_says_how_large_it_may_be(phone, name, limit, says):
    with pytest.raises(ImageError, match=says): open_image(phone/name, max_pixels=limit)

def test_a_jpeg_may_have_more_pixels_than_pillow_opens(tmp_path):
    Image.new('RGB', (16_320, 12_240), 'teal').save(tmp_path/'a.jpg', quality=20)     # 200 million, as some phones have
    assert open_image(tmp_path/'a.jpg', draft=(64, 64)).size == (2040, 1530)

def test_the_audit_tells_the_size_of_the_file(phone):
    good, rejected = audit_images(pd.DataFrame({'image': [str(phone/o) for o in ('upright.jpg', 'a.png', 'small.png')]}))
    assert good[['width', 'height']].values.tolist() == [[7000, 9000], [90, 70]] and len(rejected) == 1
    good, rejected = audit_images(pd.DataFrame({'image': [str(phone/'a.png')]}), max_pixels=63_000_000)
    assert good[['width', 'height']].values.tolist() == [[9000, 7000]] and rejected.empty

def test_one_limit_for_check_index_and_tag(phone, tmp_path, capsys):
    save_bundle(tiny_tagger(tiny_space()), tmp_path/'bundle')
    for out, more in (('a.csv', []), ('b.csv', ['--max-pixels', '63000000'])):
        assert main(['tag', str(tmp_path/'bundle'), str(phone), '--out', str(tmp_path/out), *more]) == 0
        read = pd.read_csv(tmp_path/out, dtype=str); bad = read[read['reason'].notna()]
        assert [Path(o).name for o in bad['image']] == ([] if more else ['a.png']) and bad['reason'].str.contains('--max-pixels').all()
    for out, n, more in (('i', 3, []), ('j', 4, ['--max-pixels', '63000000'])):
        assert main(['index', str(tmp_path/'bundle'), str(phone), '--out', str(tmp_path/out), *more]) == 0
        assert f'SimilarIndex({n} x' in capsys.readouterr().out
    assert main(['tag', str(tmp_path/'bundle'), str(phone), '--out', str(tmp_path/'c.csv'), '--max-pixels', '0']) == 2
    assert '--max-pixels 0, expected 1 to 178,956,970' in capsys.readouterr().err

# ---- masks ----

TURNS = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.T,
         6: lambda a: a.T[:, ::-1], 7: lambda a: a[::-1, ::-1].T, 8: lambda a: a.T[::-1]}    # EXIF orientation: stored to seen

@pytest.mark.parametrize('turn', TURNS)
@pytest.mark.parametrize('size', [(20, 33), (24, 24)], ids=['oblong', 'square'])
@pytest.mark.parametrize('fmt', ['PNG', 'JPEG'])
def test_a_mask_lies_on_the_pixels_that_it_was_drawn_on(fmt, size, turn):
    mask = np.zeros(size, bool); mask[3:17, 2:9] = mask[12:17, 9:19] = True       # an L, which no turn leaves as it is
    im = Image.fromarray(np.where(mask, 0, 255).astype(np.uint8)); exif = Image.Exif(); exif[0x0112] = turn
    body = data(im, fmt, exif=exif, **(dict(quality=100) if fmt == 'JPEG' else {}))
    got = open_mask(body, mask_to_rle(mask), *size)
    assert np.array_equal(got, TURNS[turn](mask)) and np.array_equal(got, np.asarray(open_image(body))[..., 0] < 128)

def test_a_mask_of_another_size_is_an_error_that_names_the_turn():
    exif = Image.Exif(); exif[0x0112] = 6
    body = data(Image.new('RGB', (60, 40)), 'JPEG', exif=exif)
    with pytest.raises(CatalogError, match='the mask is 60x40 pixels .*, the picture in its file 40x60, with EXIF orientation 6'):
        open_mask(body, '1 5', 60, 40)
    with pytest.raises(CatalogError, match='the picture in its file 40x60: give'): open_mask(data(Image.new('RGB', (60, 40))), '1 5', 4, 4)
    with pytest.raises(ImageError, match='its content is HTML'): open_mask(b'<html>', '1 5', 4, 4)

# ---- what is stored beside the pixels ----

scene = plain('white'); scene.paste('red', (0, 0, 12, 8)); scene.paste('blue', (12, 8, 24, 16))
ORIENTATIONS = {1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
                5: lambda x: x.transpose(1, 0, 2), 6: lambda x: x.transpose(1, 0, 2)[::-1],
                7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1], 8: lambda x: x.transpose(1, 0, 2)[:, ::-1]}
def oriented(o): return Image.fromarray(np.ascontiguousarray(ORIENTATIONS[o](np.asarray(scene))))
def orientation(o):
    exif = Image.Exif(); exif[0x0112] = o
    return exif
def far(a, b): return np.abs(np.asarray(a, int) - np.asarray(b, int)).max()

@pytest.mark.parametrize('o', ORIENTATIONS)
@pytest.mark.parametrize('name', ['x.avif', 'x.jpg', 'x.png'])
def test_avif_under_any_name(o, name, tmp_path):
    (tmp_path/name).write_bytes(data(oriented(o), 'AVIF', quality=100, subsampling='4:4:4', exif=orientation(o)))
    assert far(open_image(tmp_path/name), scene) <= 6

@pytest.mark.parametrize('o', ORIENTATIONS)
@pytest.mark.parametrize('opening', [1, OPENING_VERSION])
def test_an_opened_picture_is_not_turned_and_coloured_again(o, opening):
    body = data(oriented(o).convert('P'), exif=orientation(o), icc_profile=rgb_profile('Adobe RGB'))
    once = open_image(body, opening=opening)
    assert once.size == scene.size and same(open_image(once, opening=opening), once) and not once.info

ENTRY = struct.pack('<HHI', 0x0112, 3, 1) + b'\6\0\0\0'     # Orientation 6
def ifd(*entries, n=None): return b'II*\0\x08\0\0\0' + struct.pack('<H', len(entries) if n is None else n) + b''.join(entries) + bytes(4)
EXIF = {'maker note': ifd(ENTRY, struct.pack('<HHII', 0x927c, 7, 2**31, 2**31)),
        'no resolution': ifd(ENTRY, struct.pack('<HHII', 0x011a, 5, 1, 38)) + bytes(8),
        'unknown type': ifd(ENTRY, struct.pack('<HHII', 700, 99, 1, 9)),
        'loop': ifd(ENTRY, struct.pack('<HHII', 0x8769, 4, 1, 8)), 'cut': ifd(ENTRY, n=200)[:-4], 'header twice': b'Exif\0\0' + ifd(ENTRY),
        'big': ifd(ENTRY, struct.pack('<HHII', 0x010e, 2, 60_000, 38)) + b'x'*60_000}

@pytest.mark.parametrize('name', EXIF)
def test_an_orientation_in_broken_exif_is_heeded(name):
    body = data(oriented(6), 'JPEG', quality=100, subsampling=0, exif=b'Exif\0\0' + EXIF[name])
    assert open_image(body).size == scene.size and far(open_image(body), scene) <= 6
    assert open_image(body, draft=(4, 4)).size[0] > open_image(body, draft=(4, 4)).size[1]

@pytest.mark.parametrize('exif', [b'', b'junk', b'II*\0', b'MM\0*\xff\xff\xff\xff', ifd(struct.pack('<HHI4s', 0x0112, 2, 2, b'6\0\0\0')),
                                  ifd(struct.pack('<HHI4s', 0x0112, 3, 1, b'\x09\0\0\0'))],
                         ids=short)
@pytest.mark.parametrize('fmt', ['JPEG', 'WEBP'])
def test_exif_without_an_orientation_is_ignored(exif, fmt):
    body = data(scene, fmt, exif=b'Exif\0\0' + exif, **SAVED[fmt])
    assert far(open_image(body), scene) <= 6

def chunk(kind, body, intact=True):
    crc = zlib.crc32(kind + body) ^ (not intact)
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', crc)

png = data(scene); pixels, end = 33, png.index(b'IEND') - 4
JUNK = {'empty': b'', 'junk': b'\xff\0junk\xfe'*3, 'zeros': bytes(40), 'text of 2 MB': b'k\0' + b'x'*2_000_000,
        'compressed junk': b'k\0\0junk', '2 MB compressed': b'k\0\0' + zlib.compress(b'x'*2_000_000), 'exif': b'II*\0\xff\xff\xff\x7f'}

@pytest.mark.parametrize('kind', ['tEXt', 'zTXt', 'iTXt', 'eXIf', 'iCCP', 'tIME', 'pHYs', 'gAMA', 'cHRM', 'sRGB', 'bKGD', 'sPLT',
                                  'acTL', 'prIV'])
@pytest.mark.parametrize('intact', [True, False])
def test_a_broken_chunk_does_not_cost_a_png(kind, intact):
    for name, body in JUNK.items():
        for at in (pixels, end):
            assert same(open_image(png[:at] + chunk(kind.encode(), body, intact) + png[at:]), scene), (name, at)

@pytest.mark.parametrize('kind', ['IHDR', 'IDAT', 'PLTE'])
def test_a_broken_chunk_of_pixels_does(kind):
    body = data(scene.quantize(4)); at = body.index(kind.encode()); n = struct.unpack('>I', body[at-4:at])[0]
    with pytest.raises(ImageError): open_image(body[:at+4+n//2] + b'\x99'*(n - n//2) + body[at+4+n:])

def test_a_profile_and_an_orientation_outlast_broken_text():
    im = plain((30, 160, 90)).rotate(90, expand=True); body = data(im, exif=orientation(6), icc_profile=rgb_profile('Adobe RGB'))
    got = open_image(body[:33] + chunk(b'tEXt', b'x', intact=False) + body[33:])
    assert got.size == (24, 16) and np.abs(got.getpixel((9, 9)) - seen((30, 160, 90), 'Adobe RGB')).max() <= 2

def segment(marker, body): return b'\xff' + bytes([marker]) + struct.pack('>H', len(body) + 2) + body

@pytest.mark.parametrize('marker', [*range(0xe0, 0xf0), 0xfe])
def test_a_broken_segment_does_not_cost_a_jpeg(marker):
    body = data(scene, 'JPEG', quality=100, subsampling=0); want = open_image(body)
    for junk in (b'', b'junk', b'Exif\0\0', b'ICC_PROFILE\0', b'ICC_PROFILE\0\1\1junk', b'ICC_PROFILE\0\3\2', b'JFIF', b'MPF\0junk',
                 b'Adobe', b'Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xff', b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta \xff', bytes(9)):
        assert same(open_image(body[:2] + segment(marker, junk) + body[2:]), want), junk

@pytest.mark.parametrize('kind', [b'EXIF', b'ICCP', b'XMP ', b'JUNK'])
@pytest.mark.parametrize('junk', [b'', b'junk', b'\xff'*50, b'II*\0\xff\xff\xff\x7f'], ids=short)
def test_a_broken_chunk_does_not_cost_a_webp(kind, junk):
    body = data(scene, 'WEBP', lossless=True, exif=orientation(1), icc_profile=srgb, xmp=b'<x/>'); res, at = b'WEBP', 12
    while at < len(body):
        n = struct.unpack('<I', body[at+4:at+8])[0]; one = junk if body[at:at+4] == kind else body[at+8:at+8+n]
        res += body[at:at+4] + struct.pack('<I', len(one)) + one + bytes(len(one) % 2); at += 8 + n + n % 2
    assert same(open_image(b'RIFF' + struct.pack('<I', len(res)) + res), scene)

@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('tag', [270, 271, 274, 282, 305, 700, 33723, 34377, 34665, 34675, 34853, 37724, 65000])
def test_a_broken_tag_does_not_cost_a_tiff(tag, order):
    body = np.asarray(scene).tobytes(); w, h = scene.size
    for kind, count, value in [(2, 100, 2**31-1), (7, 2**31, 2**31-1), (99, 1, 0), (0, 0, 0), (4, 3, 2**31-1), (12, 1, 8), (1, 4, 7),
                               (5, 1, 9)]:
        tags = {256: (4, 1, w), 257: (4, 1, h), 258: (3, 3, 0), 259: (4, 1, 1), 262: (4, 1, 2), 273: (4, 1, 0), 277: (4, 1, 3),
                278: (4, 1, h), 279: (4, 1, len(body)), tag: (kind, count, value)}
        at = 14 + 12*len(tags); tags[258], tags[273] = (3, 3, at), (4, 1, at + 6)
        table = b''.join(struct.pack(order + 'HHII', k, *tags[k]) for k in sorted(tags))
        head = (b'II' if order == '<' else b'MM') + struct.pack(order + 'HIH', 42, 8, len(tags))
        got = open_image(head + table + bytes(4) + struct.pack(order + 'HHH', 8, 8, 8) + body)
        assert np.array_equal(np.sort(np.asarray(got), None), np.sort(np.asarray(scene), None)), (kind, count)
        if tag != 274: assert same(got, scene)

# ---- what is no picture ----

FOREIGN = {
    b'\0\0\0\x1cftypheic\0\0\0\0mif1': 'HEIC; save it as JPEG',
    b'\0\0\0\x18ftypmif1': 'HEIC; save it as JPEG',
    b'%PDF-1.7\n': 'PDF; save it',
    b'<!DOCTYPE html><html>': 'HTML, expected one of JPEG',
    b'\n  <html lang="de">': 'HTML',
    b'\xef\xbb\xbf<!doctype HTML>': 'HTML',
    b'<svg xmlns="x"/>': 'SVG; save it',
    b'<?xml version="1.0"?>\n<!-- x --><svg/>': 'SVG; save it',
    b'<?xml version="1.0"?><a/>': 'XML',
    b'PK\x03\x04junk': 'ZIP',
    b'\0\0\0 ftypisom\0\0\x02\0': 'a video',
    b'8BPS\0\x01': 'Photoshop; save it',
    b'\xff\n\xfa': 'JPEG XL; save it',
    b'\0\0\0\x0cjP  \r\n\x87\n': 'JPEG 2000; save it',
    b'%!PS-Adobe-3.0 EPSF-3.0': 'PostScript; save it',
    b'hello': 'unknown, expected one of',
}

@pytest.mark.parametrize('body', FOREIGN, ids=list(FOREIGN.values()))
@pytest.mark.parametrize('as_file', [True, False])
def test_a_foreign_file_is_named(body, as_file, tmp_path):
    (tmp_path/'x.jpg').write_bytes(body)
    with pytest.raises(ImageError, match=f'^not an image.*: its content is {FOREIGN[body]}') as e:
        open_image(tmp_path/'x.jpg' if as_file else body)
    assert '\n' not in str(e.value)

# ---- extreme shapes ----

@pytest.mark.parametrize('size', [(6000, 20), (3, 4000), (10_000, 1), (1, 10_000), (1, 1), (100, 1), (63, 1), (20_000, 155)])
@pytest.mark.parametrize('to', [(64, 64), (32, 96), (224, 224)])
def test_no_side_vanishes(size, to):
    im, (h, w) = Image.new('RGB', size, 'red'), to
    assert {m: fit_image(im, to, m).size for m in METHODS} == {m: (w, h) for m in METHODS}
    for m in ('squish', 'crop'): assert fit_image(im, to, m).getextrema() == ((255, 255), (0, 0), (0, 0))
    red = np.asarray(fit_image(im, to, 'pad'))[..., 1] < 128
    scale = min(w/size[0], h/size[1])
    assert red.sum() == max(1, round(size[0]*scale))*max(1, round(size[1]*scale))
    Prep(to, (.5,)*3, (.25,)*3, 'pad')(im)

# ---- older rules ----

@pytest.fixture
def colourful(tmp_path):
    "A picture whose profile says other colours, a belt, and the pictures that a person sees."
    x = np.random.default_rng(0).integers(256, size=(48, 48, 3), dtype=np.uint8); icc = rgb_profile('Adobe RGB')
    Image.fromarray(x).save(tmp_path/'a.png', icc_profile=icc)
    flat = x.reshape(-1, 3); shown = np.stack([seen(o, 'Adobe RGB') for o in flat]).reshape(x.shape).round().astype(np.uint8)
    return tmp_path/'a.png', Image.fromarray(x), Image.fromarray(shown)

@pytest.mark.parametrize('run', ['run', 'posts_run'])
def test_a_stored_bundle_keeps_its_rules(run, colourful):
    file, stored, shown = colourful
    tagger = Tagger.load(Path(__file__).parent/'samples'/'v1'/run/'tagger')
    assert tagger.prep.opening == 1
    old, new = (replace(tagger.prep, opening=o) for o in (1, OPENING_VERSION))
    np.testing.assert_allclose(tagger.scores([file]), tagger.scores([stored]), atol=1e-5)
    np.testing.assert_array_equal(old(file), old(stored))
    assert np.abs(old(file) - new(file)).max() > .1 and np.abs(new(file) - new(shown)).max() <= 3/255/min(new.std)
    tagger.prep = new
    assert np.abs(tagger.scores([file]) - tagger.scores([stored])).max() > 1e-5

def test_an_exported_learner_keeps_its_rules(colourful):
    "One that was exported before there was a second version has no `opening`."
    file, stored, shown = colourful; opens = OpenImage(None, (48, 48))
    assert np.abs(np.asarray(opens(file), int) - np.asarray(shown, int)).max() <= 3
    del opens.__dict__['opening'], opens.__dict__['max_pixels']
    assert same(opens(file), stored)

def test_stored_embeddings_keep_their_rules(colourful):
    file, stored, _ = colourful
    embedder = load_embeddings(Path(__file__).parent/'samples'/'v1'/'embeddings').embedder
    assert embedder.prep.opening == 1
    np.testing.assert_allclose(embedder([file]), embedder([stored]), atol=1e-5)

def test_a_cache_of_other_rules_is_not_used(colourful, tmp_path):
    file, stored, _ = colourful; prep = Prep((48, 48), (.5,)*3, (.25,)*3)
    first = cache_pictures([file], replace(prep, opening=1), folder=tmp_path/'cache')
    second = cache_pictures([file], prep, folder=tmp_path/'cache')
    assert np.array_equal(first[0], stored) and not np.array_equal(second[0], first[0]) and np.array_equal(second[0], open_image(file))
    assert len(list((tmp_path/'cache').iterdir())) == 2

# ---- files of a folder ----

def test_the_suffixes_are_those_of_the_formats():
    Image.init()
    assert set(SUFFIXES) == {k for k, fmt in Image.registered_extensions().items() if fmt in FORMATS}

@pytest.fixture
def shop(tmp_path):
    root = tmp_path/'new'; (root/'sub').mkdir(parents=True)
    for name in ('a.jpg', 'b.jpe', 'c.jfif', 'd.avif', 'E.PNG', 'sub/f.webp', 'x.heic', 'noext', '.hidden.jpg', 'cr\r.jpg'):
        (root/name).write_bytes(data(scene, 'AVIF' if name == 'd.avif' else 'JPEG'))
    for name in ('README', 'prices.csv', 'sub/notes.txt', 'empty.jpg'): (root/name).touch()
    (root/'link').symlink_to(root/'sub')
    return root

def rows(f): return pd.read_csv(f, keep_default_na=False).drop_duplicates('image')

def test_every_file_has_a_row(shop, tmp_path):
    n, rejected = tag_many(tiny_tagger(tiny_space()), shop, tmp_path/'t.csv', k=1)
    df = rows(tmp_path/'t.csv'); names = [str(Path(o).relative_to(shop)) for o in df['image']]
    assert set(names) == {str(o.relative_to(shop)) for o in shop.rglob('*') if not o.name.startswith('.')} - {'sub'}
    why = dict(zip(names, df['reason']))
    assert n == 7 and {k for k, o in why.items() if not o} == {'E.PNG', 'a.jpg', 'b.jpe', 'c.jfif', 'cr\r.jpg', 'd.avif', 'sub/f.webp'}
    assert why['x.heic'].endswith('; save the picture as JPEG') and why['prices.csv'].startswith("suffix '.csv' is not one of .jpg")
    assert why['README'].startswith('the name has no suffix') and why['link'] == 'a link to a folder, which is not followed'
    assert names[:7] == sorted(names[:7]) and len(rejected) == len(df) - n

def test_a_file_named_by_itself_is_opened(shop, tmp_path):
    assert tag_many(tiny_tagger(tiny_space()), [shop/'x.heic', shop, shop/'noext'], tmp_path/'t.csv', k=1)[0] == 9

@pytest.mark.parametrize('names', [(), ('README',), ('IMG_1.heic', 'notes.txt')])
def test_a_folder_without_pictures_is_an_error(names, tmp_path):
    for o in names: (tmp_path/o).touch()
    with pytest.raises(CatalogError, match='no picture in') as e: find_pictures(tmp_path)
    assert all(o in str(e.value) for o in names[:1]) and '.avif' in str(e.value)

def test_a_job_does_not_tag_its_own_files(shop, monkeypatch):
    "Interrupted, resumed and repeated, with its files beside the pictures."
    tagger, out = tiny_tagger(tiny_space()), shop/'tags.csv'; calls = []
    def stop(*args, **kw):
        if len(calls) == 2: raise KeyboardInterrupt
        calls.append(1); return predict(*args, **kw)
    predict = type(tagger).predict; how = dict(k=1, bs=2, chunk=2, workers=1)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(type(tagger), 'predict', stop); tag_many(tagger, shop, out, **how)
    assert (shop/'tags.csv.parts').is_dir()
    (shop/'README').write_text('changed')
    n, rejected = tag_many(tagger, shop, out, **how); first = out.read_bytes()
    assert n == 7 and not rejected['image'].str.contains('tags.csv').any()
    tag_many(tagger, shop, out, **how)
    assert out.read_bytes() == first

def test_a_job_is_the_same_in_another_process():
    "The arrays of a bundle are loaded in another order in each process."
    tagger = tiny_tagger(tiny_space()); a = part_facts(tagger, {}, {})
    tagger.arrays = dict(reversed(list({'b': np.ones(2), 'a': np.zeros(2)}.items()))); b = part_facts(tagger, {}, {})
    tagger.arrays = dict(reversed(list(tagger.arrays.items())))
    assert part_facts(tagger, {}, {}) == b != a

# ---- nets of a fixed input size; test_vit3 takes other sizes when it is built, test_maxvit only those that its windows divide ----

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('fixed')/'shop'
    demo_folders(root, n=60, size=32)
    return root

def command(capsys, *argv):
    code = main(list(map(str, argv)))
    return code, capsys.readouterr().err.strip()

@pytest.mark.parametrize('arch', ['test_vit3', 'test_maxvit'])
def test_a_net_is_built_for_the_size(arch, tmp_path):
    with pytest.raises((AssertionError, RuntimeError)): create_net(find_arch(arch)).eval()(torch.zeros(1, 3, 64, 64))
    torch.manual_seed(0); space = tiny_space(); x = torch.randn(2, 3, 64, 64)
    model = catalog_model(find_arch(arch, (64, 64)), len(space.vocab)).eval()
    save_bundle(Tagger(model, space, arch_prep(arch, 64), arch=arch), tmp_path/'b', facts={}, metrics={})
    with torch.no_grad(): torch.testing.assert_close(Tagger.load(tmp_path/'b').model(x), model(x), atol=1e-5, rtol=0)

def test_weights_are_interpolated_to_the_size():
    a, b = find_arch('test_vit3'), find_arch('test_vit3', (80, 80)); net = create_net(a)
    with torch.no_grad(): net.pos_embed.copy_(torch.arange(96.).expand_as(net.pos_embed))    # the same at every place
    small = create_net(b, net.state_dict())
    assert net.pos_embed.shape[1] - small.pos_embed.shape[1] == 10*10 - 5*5    # patches of 16 px
    torch.testing.assert_close(small.pos_embed, torch.arange(96.).expand_as(small.pos_embed), atol=1e-3, rtol=0)
    assert torch.equal(small.blocks[0].mlp.fc1.weight, net.blocks[0].mlp.fc1.weight)

def test_train_and_tag(folders, tmp_path, capsys):
    assert command(capsys, 'train', folders, '--out', tmp_path/'run', '--arch', 'test_vit3', '--weights', 'none', '--size', 32,
                   '--freeze-epochs', 0, '--epochs', 1, '--tta', 1)[0] == 0
    assert command(capsys, 'tag', tmp_path/'run', folders, '--out', tmp_path/'t.csv')[0] == 0
    assert rows(tmp_path/'t.csv')['reason'].eq('').all()

@pytest.mark.parametrize('job', ['train', 'compare', 'index', 'embed'])
def test_one_line_names_the_size(job, folders, tmp_path, capsys):
    out = ['--out', tmp_path/'out', '--size', 100]
    args = dict(train=[folders, *out, '--arch', 'test_maxvit', '--weights', 'none'], compare=[folders, *out, '--scratch', 'test_maxvit'],
                index=['test_maxvit', folders, *out, '--weights', 'none'], embed=['test_maxvit', folders, *out, '--weights', 'none'])
    code, said = command(capsys, job, *args[job])
    assert code == 2 and '\n' not in said
    assert said.endswith('test_maxvit takes no pictures of 100x100 px; it was trained on 160x160: use --size 160')

@pytest.mark.parametrize('arch', [TINY_ARCH, 'efficientnet_lite0', 'resnet18', 'mobilenetv3_small_050'])
@pytest.mark.parametrize('size', [(32, 32), (64, 48), (100, 100)])
def test_other_nets_are_as_before(arch, size): assert find_arch(arch, size) == find_arch(arch)
