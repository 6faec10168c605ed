"Every picture that a shop can have ends as the right pixels or as a rejected row with its reason; nothing outside of the root is read."
import os, signal, socket, struct, sys, zlib
from io import BytesIO

import numpy as np, pandas as pd, pytest
from PIL import Image, ImageCms

from catalog_tagger.catalog.images import ImageError, METHODS, audit_images, fit_image, open_image
from catalog_tagger.catalog.read import read_catalog

@pytest.fixture(autouse=True)
def no_hang():
    "A picture that is waited for fails its test."
    signal.alarm(60); yield; signal.alarm(0)

def data(im, fmt='PNG', **kw):
    im.copy().save(b := BytesIO(), fmt, **kw)    # a copy, because saving leaves its options on the picture
    return b.getvalue()

def flag(value):
    "EXIF that says how the camera was held."
    exif = Image.Exif(); exif[0x0112] = value
    return exif

def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

def png(w, h, depth, kind, rows, *more):
    "A PNG by hand, for what Pillow does not write."
    head = chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, kind, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + b''.join(more) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')

def painted(mode, white, red, blue):
    "White with a red top left and a blue bottom right, so that each turn of it looks different."
    im = Image.new(mode, (32, 16), white); im.paste(red, (0, 0, 16, 8)); im.paste(blue, (16, 8, 32, 16))
    return im

scene = painted('RGB', 'white', 'red', 'blue')
grey = painted('L', 255, 0, 128)
other = Image.new('RGB', scene.size, 'green')
srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
paletted = scene.quantize(4)
clear = paletted.getpixel((31, 0))

def see_through(im):
    "`im` with its white made a transparent black."
    x = np.array(im.convert('RGBA')); x[(x[..., :3] == 255).all(-1)] = 0
    return Image.fromarray(x)

def shallow(im):
    "`im` as a PNG of 16 bits a channel."
    x = np.asarray(im).astype('>u2')*257
    return png(*im.size, 16, 2, b''.join(b'\0' + o.tobytes() for o in x))

def lab(im):
    to_lab = ImageCms.buildTransform(ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB'), 'RGB', 'LAB')
    return ImageCms.applyTransform(im, to_lab)

def grey16(im, order='<'): return Image.fromarray((np.asarray(im)*257.).astype(f'{order}u2'))

GOOD = {  # name: the file's bytes, the picture that a person sees
    'jpeg': (data(scene, 'JPEG', quality=95, subsampling=0), scene),
    'progressive jpeg': (data(scene, 'JPEG', quality=95, subsampling=0, progressive=True), scene),
    'grey jpeg': (data(grey, 'JPEG', quality=95), grey),
    'cmyk jpeg': (data(scene.convert('CMYK'), 'JPEG', quality=95), scene),
    'several pictures in a jpeg': (data(scene, 'MPO', quality=95, subsampling=0, save_all=True, append_images=[other]), scene),
    'icc profile': (data(scene, 'JPEG', quality=95, subsampling=0, icc_profile=srgb), scene),
    'broken icc profile': (data(scene, 'JPEG', quality=95, subsampling=0, icc_profile=b'junk'), scene),
    'exif of junk': (data(scene, 'JPEG', quality=95, subsampling=0, exif=b'Exif\0\0junk'), scene),
    'exif that points nowhere': (data(scene, 'JPEG', quality=95, subsampling=0, exif=b'Exif\0\0II*\0\xff\xff\xff\x7f'), scene),
    'exif turn of 9': (data(scene, exif=flag(9)), scene),
    'wrong suffix': (data(scene, 'PNG'), scene),
    'webp': (data(scene, 'WEBP', lossless=True), scene),
    'bmp': (data(scene, 'BMP'), scene),
    'tiff of several pages': (data(scene, 'TIFF', save_all=True, append_images=[other.copy()]), scene),
    'rgba': (data(see_through(scene)), scene),
    'transparent webp': (data(see_through(scene), 'WEBP', lossless=True, exact=True), scene),
    'la': (data(see_through(grey).convert('LA')), grey),
    'half transparent': (data(Image.new('LA', (4, 3), (0, 128))), Image.new('L', (4, 3), 127)),
    'palette': (data(paletted), scene),
    'palette with transparency': (data(paletted, transparency=clear), scene),
    'transparent grey': (data(painted('L', 7, 0, 128), transparency=7), grey),
    'transparent colour': (data(painted('RGB', 'lime', 'red', 'blue'), transparency=(0, 255, 0)), scene),
    '1 bit': (data(painted('1', 1, 0, 0)), painted('L', 255, 0, 0)),
    '16 bit grey': (data(grey16(grey)), grey),
    '16 bit grey with transparency': (data(grey16(painted('L', 7, 0, 128)), transparency=7*257), grey),
    '16 bit grey tiff': (data(grey16(grey), 'TIFF'), grey),
    '16 bit grey tiff, big-endian': (data(grey16(grey, '>'), 'TIFF'), grey),
    '16 bit colour': (shallow(scene), scene),
    'cmyk tiff': (data(scene.convert('CMYK'), 'TIFF'), scene),
    'ycbcr tiff': (data(scene.convert('YCbCr'), 'TIFF'), scene),
    'lab tiff': (data(lab(scene), 'TIFF'), scene),
    'animated gif': (data(scene, 'GIF', save_all=True, append_images=[other]), scene),
    'animated webp': (data(scene, 'WEBP', lossless=True, save_all=True, append_images=[other]), scene),
    'animated png': (data(scene, 'PNG', save_all=True, append_images=[other]), scene),
    'bomb in the text of a png': (png(1, 1, 8, 2, b'\0abc', chunk(b'zTXt', b'k\0\0' + zlib.compress(b'0'*100_000_000))),
                                  Image.new('RGB', (1, 1), tuple(b'abc'))),
    '1x1': (data(Image.new('RGB', (1, 1), 'red')), Image.new('RGB', (1, 1), 'red')),
    'very wide': (data(Image.new('RGB', (10_000, 1), 'red')), Image.new('RGB', (10_000, 1), 'red')),
    'very tall': (data(Image.new('RGB', (1, 10_000), 'red')), Image.new('RGB', (1, 10_000), 'red')),
}

TURNS = {  # EXIF orientation: how the sensor stores what is upright, by the table of the standard
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2), 6: lambda x: x.transpose(1, 0, 2)[::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1], 8: lambda x: x.transpose(1, 0, 2)[:, ::-1]}
HOW = dict(JPEG=dict(quality=95, subsampling=0), PNG={}, WEBP=dict(lossless=True), TIFF={})

def stored(turn): return Image.fromarray(np.ascontiguousarray(TURNS[turn](np.asarray(scene))))

GOOD |= {f'exif {turn} {fmt}': (data(stored(turn), fmt, exif=flag(turn), **kw), scene) for turn in TURNS for fmt, kw in HOW.items()}

noise = Image.fromarray(np.random.default_rng(0).integers(255, size=(64, 64, 3), dtype=np.uint8))

def cut(fmt, **kw): return lambda f: f.write_bytes((b := data(noise, fmt, **kw))[:len(b)*2//3])
def has(body): return lambda f: f.write_bytes(body)

def bomb_jpeg(f):
    b = bytearray(data(noise, 'JPEG')); at = b.index(b'\xff\xc0') + 5   # height and width follow the marker, the length and the depth
    b[at:at+4] = (60_000).to_bytes(2, 'big')*2
    f.write_bytes(b)

def socket_file(f):
    here = os.getcwd(); os.chdir(f.parent)     # the name of a socket is short
    socket.socket(socket.AF_UNIX).bind(f.name); os.chdir(here)

def hole(f):
    with open(f, 'wb') as o: o.write(data(scene)); o.truncate(10**12)

BAD = {  # name: writes the file, what its reason says
    'empty': (has(b''), 'empty file'),
    'one byte': (has(b'\xff'), 'not an image'),
    'start of a jpeg': (has(b'\xff\xd8\xff'), 'not an image'),
    'truncated jpeg': (cut('JPEG'), 'truncated'),
    'truncated progressive jpeg': (cut('JPEG', progressive=True), 'truncated'),
    'truncated png': (cut('PNG'), 'truncated'),
    'truncated gif': (cut('GIF'), 'truncated'),
    'truncated webp': (cut('WEBP'), 'truncated'),
    'truncated bmp': (cut('BMP'), 'truncated'),
    'truncated tiff': (cut('TIFF'), 'truncated'),
    'bomb jpeg': (bomb_jpeg, 'too large: 60000x60000 pixels, 7500x7500 at an eighth of its size, the limit is 50,000,000'),
    'bomb png': (has(png(60_000, 60_000, 8, 2, b'')), 'too large'),
    'just too large': (has(png(10_000, 5_001, 8, 2, b'')), 'too large: 10000x5001 pixels, the limit is 50,000,000'),
    'html': (has(b'<!DOCTYPE html><html>404</html>'), 'not an image'),
    'text': (has('größe: 38'.encode()), 'not an image'),
    'svg': (has(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'), 'not an image'),
    'pdf': (has(b'%PDF-1.7\n%%EOF'), 'not an image'),
    'postscript': (has(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'), 'not an image'),
    'zero-size png': (has(png(0, 3, 8, 2, b'')), 'not an image'),
    'zero-size gif': (has(b'GIF89a' + bytes(7) + b';'), 'not an image'),
    'float tiff': (has(data(Image.fromarray(np.full((3, 4), .5, np.float32)), 'TIFF')), 'the value of white is unknown'),
    '32 bit tiff': (has(data(Image.fromarray(np.full((3, 4), 128, np.int32)), 'TIFF')), 'the value of white is unknown'),
    'folder': (lambda f: f.mkdir(), 'not a file but a folder'),
    'pipe': (os.mkfifo, 'a pipe'),
    'socket': (socket_file, 'not a file'),
    'missing': (lambda f: None, 'missing'),
    'link to nowhere': (lambda f: f.symlink_to('nowhere.jpg'), 'missing'),
    'link to itself': (lambda f: f.symlink_to(f), 'unreadable'),
    'terabyte': (hole, 'too large: 1,000,000,000,000 bytes'),
}

def far(im, want):
    "How far two pictures differ at most, in the middle of each quarter."
    assert im.mode == 'RGB' and im.size == want.size
    at = [(im.width*i//4, im.height*j//4) for i in (1, 3) for j in (1, 3)]
    return max(np.abs(np.subtract(im.getpixel(o), want.convert('RGB').getpixel(o))).max() for o in at)

@pytest.mark.parametrize('name', GOOD)
def test_odd_picture_has_the_right_pixels(name, tmp_path):
    body, want = GOOD[name]
    (tmp_path/'x.jpg').write_bytes(body)
    good, rejected = audit_images(pd.DataFrame({'image': [str(tmp_path/'x.jpg')]}))
    assert len(rejected) == 0 and (good['width'][0], good['height'][0]) == want.size
    some = 30 if name == 'lab tiff' else 4    # 8 bits of LAB keep full blue coarsely
    assert far(open_image(tmp_path/'x.jpg'), want) <= some
    assert far(open_image(tmp_path/'x.jpg', draft=(4, 4)).resize(want.size), want) <= some

@pytest.mark.parametrize('name', BAD)
def test_bad_picture_is_a_row_with_its_reason(name, tmp_path):
    write, reason = BAD[name]
    write(tmp_path/'bad.jpg'); (tmp_path/'good.jpg').write_bytes(data(scene))
    good, rejected = audit_images(pd.DataFrame({'image': [str(tmp_path/o) for o in ('bad.jpg', 'good.jpg')], 'row': [7, 8]}))
    assert good['row'].tolist() == [8] and rejected['row'].tolist() == [7]
    assert reason in rejected['reason'][0] and '\n' not in rejected['reason'][0]
    with pytest.raises(ImageError): open_image(tmp_path/'bad.jpg')

def test_all_in_one_catalog(tmp_path):
    for i, (body, _) in enumerate(GOOD.values()): (tmp_path/f'good{i}.jpg').write_bytes(body)
    for i, (write, _) in enumerate(BAD.values()): write(tmp_path/f'bad{i}.jpg')
    names = [f'good{i}.jpg' for i in range(len(GOOD))] + [f'bad{i}.jpg' for i in range(len(BAD))]
    good, rejected = audit_images(pd.DataFrame({'image': [str(tmp_path/o) for o in names]}))
    assert (len(good), len(rejected)) == (len(GOOD), len(BAD)) and rejected['reason'].str.len().min() > 0

@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('size', [(1, 1), (10_000, 1), (1, 10_000)])
def test_any_shape_can_be_resized(method, size): assert fit_image(Image.new('RGB', size), (24, 16), method).size == (16, 24)

opened = []    # every path that Python opens, while `watched`
watched = False
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watched and event == 'open' else None)

def link(root, out):
    (root/'images'/'1.jpg').symlink_to(out)
    return '1'

def linked_folder(root, out):
    (root/'images'/'there').symlink_to(out.parent)
    return f'images/there/{out.stem}'   # a name with a slash is a path from the root

LEAVES = {  # name: what stands in the column `id` for a picture outside of the root
    'dots': lambda root, out: f'../../{out.stem}', 'absolute': lambda root, out: str(out.with_suffix('')),
    'dots behind an absolute path': lambda root, out: f'{root}/images/../../{out.stem}',
    'link': link, 'folder that is a link': linked_folder}

@pytest.mark.parametrize('name', LEAVES)
def test_nothing_outside_of_the_root_is_read(name, tmp_path, monkeypatch):
    out, root = tmp_path/'secret.jpg', tmp_path/'shop'
    (root/'images').mkdir(parents=True); out.write_bytes(data(scene)); (root/'images'/'9.jpg').write_bytes(data(scene))
    rows = ''.join(f'{o},A,B,C\n' for o in [LEAVES[name](root, out), '9'])
    (root/'styles.csv').write_text('id,masterCategory,subCategory,articleType\n' + rows)
    opened.clear(); monkeypatch.setitem(globals(), 'watched', True)
    catalog = read_catalog(root)
    df, unread = catalog.df, catalog.rejected
    good, unusable = audit_images(df)
    assert unread['row'].tolist() == [0] and 'leads outside' in unread['reason'][0]
    assert good['row'].tolist() == [1] and len(unusable) == 0
    assert any('9.jpg' in o for o in opened) and not any(word in o for o in opened for word in ('secret', 'images/1.jpg', 'there'))

@pytest.mark.parametrize('path', ['a\0b.jpg', 'a\ud800.jpg', 'x'*5000])
def test_a_name_that_cannot_be(path, tmp_path):
    good, rejected = audit_images(pd.DataFrame({'image': [str(tmp_path/path)]}, dtype=object))
    assert len(good) == 0 and 'unreadable' in rejected['reason'][0]

@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_damage_anywhere():
    "Bytes changed at random: a picture or its reason, whatever the decoder trips over."
    gen = np.random.default_rng(0)
    for body, _ in GOOD.values():
        for _ in range(20):
            b = np.frombuffer(body, np.uint8).copy(); b[gen.integers(min(len(b), 300), size=4)] = gen.integers(256, size=4)
            try: assert open_image(b.tobytes()).mode == 'RGB'
            except ImageError as e: assert str(e)
