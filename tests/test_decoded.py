"Decoded pictures are what serving sees, are never half a file, and change nothing but the time."
import errno, os, signal, subprocess, sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest
from PIL import Image

from catalog_tagger.catalog import picture_cache as decoded
from catalog_tagger.core.files import CatalogError
from catalog_tagger.catalog.picture_cache import cache_folder, cache_pictures
from catalog_tagger.catalog.images import METHODS, Prep, open_image

@pytest.fixture
def images(tmp_path):
    "Pictures of several shapes, formats and turns, one of them large enough for a draft."
    rng = np.random.default_rng(0)
    def save(name, w, h, **kw):
        im = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
        im.save(tmp_path/name, **kw)
        return str(tmp_path/name)
    exif = Image.Exif(); exif[0x0112] = 6
    return [save('a.jpg', 60, 80), save('b.png', 30, 20), save('turned.jpg', 90, 40, exif=exif), save('large.jpg', 900, 1200),
            save('large_turned.jpg', 1200, 300, exif=exif)]

def files(folder): return sorted(o.name for o in Path(folder).iterdir())

def prep(size=(24, 24), method='squish'): return Prep(size, (.5, .5, .5), (.25, .25, .25), method)

def rows(images, prep): return np.stack([np.asarray(prep.picture(o)) for o in images])

@pytest.mark.parametrize('method', METHODS)
def test_rows_are_what_serving_sees(images, tmp_path, method):
    got = cache_pictures(images, prep((32, 24), method), folder=tmp_path/'cache')
    assert got.dtype == np.uint8 and not got.flags.writeable
    assert np.array_equal(got, rows(images, prep((32, 24), method)))

def test_more_pictures_than_are_decoded_at_once(images, tmp_path):
    many = images[:2]*300
    got = cache_pictures(many, prep((8, 8)), folder=tmp_path/'cache')
    assert np.array_equal(got, np.tile(rows(images[:2], prep((8, 8))), (300, 1, 1, 1)))

def test_a_second_call_decodes_nothing(images, tmp_path, monkeypatch):
    first = cache_pictures(images, prep(), folder=tmp_path/'cache')
    monkeypatch.setattr(decoded, '_cache_picture', None)
    assert np.array_equal(cache_pictures(images, prep(), folder=tmp_path/'cache'), first)

def test_a_changed_picture_is_decoded_again(images, tmp_path):
    cache_pictures(images, prep(), folder=tmp_path/'cache')
    info = os.stat(images[0]); data = Path(images[0]).read_bytes()
    Image.new('RGB', (60, 80), 'white').save(images[0])
    assert cache_pictures(images, prep(), folder=tmp_path/'cache')[0].min() == 255
    Path(images[0]).write_bytes(data); os.utime(images[0], ns=(info.st_atime_ns, info.st_mtime_ns))
    assert np.array_equal(cache_pictures(images, prep(), folder=tmp_path/'cache'), rows(images, prep()))

@pytest.mark.parametrize('what', ['opening', 'order', 'size', 'method'])
def test_nothing_else_is_taken_for_it(images, tmp_path, what):
    cache_pictures(images, prep(), folder=tmp_path)
    before, args = files(tmp_path), [images, prep()]
    if what == 'opening': args[1] = replace(prep(), opening=1)
    if what == 'order': args[0] = images[::-1]
    if what == 'size': args[1] = prep((24, 25))
    if what == 'method': args[1] = prep(method='pad')
    cache_pictures(*args, folder=tmp_path)
    assert len(files(tmp_path)) == len(before) + 1

@pytest.mark.parametrize('damage', ['cut', 'empty', 'junk', 'another shape'])
def test_a_damaged_file_is_made_again(images, tmp_path, damage):
    folder = tmp_path/'cache'
    cache_pictures(images, prep(), folder=folder)
    f, = folder.iterdir(); size = f.stat().st_size
    if damage == 'cut': os.truncate(f, size - 1)
    if damage == 'empty': os.truncate(f, 0)
    if damage == 'junk': f.write_bytes(b'PK\3\4' + bytes(size))
    if damage == 'another shape': np.save(f, np.zeros((2, 24, 24, 3), np.uint8))
    assert np.array_equal(cache_pictures(images, prep(), folder=folder), rows(images, prep()))
    assert f.stat().st_size == size

def test_a_picture_that_cannot_be_opened_is_named(images, tmp_path):
    Path(images[1]).write_text('<html>')
    with pytest.raises(CatalogError, match='b.png: not an image.*audit_images'): cache_pictures(images, prep(), folder=tmp_path/'cache')
    assert files(tmp_path/'cache') == []
    with pytest.raises(CatalogError, match='gone.png cannot be read: No such file'):
        cache_pictures([tmp_path/'gone.png'], prep(), folder=tmp_path/'cache')

def test_a_disk_without_room_is_told_before(images, tmp_path, monkeypatch):
    monkeypatch.setattr(decoded.shutil, 'disk_usage', lambda o: namedtuple('usage', 'free')(1000))
    with pytest.raises(CatalogError, match=f'need 8,640 bytes, {tmp_path}/cache has 1,000 free.*CATALOG_TAGGER_CACHE'):
        cache_pictures(images, prep(), folder=tmp_path/'cache')
    assert files(tmp_path/'cache') == []

def test_a_disk_that_fills_meanwhile_is_told(images, tmp_path):
    "A limit on file size stands in for the disk: write fails after some bytes, as it does on a full one."
    code = f'''
import resource, signal
from catalog_tagger.catalog import picture_cache as decoded
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try: decoded.cache_pictures({images!r}, decoded.{prep()!r}, folder={str(tmp_path/'cache')!r})
except decoded.CatalogError as e: print(e)'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert 'need 8,640 bytes' in done.stdout, done.stderr
    assert files(tmp_path/'cache') == []

def test_no_space_left_while_writing(images, tmp_path, monkeypatch):
    def full(fd): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(decoded.os, 'fsync', full)
    with pytest.raises(CatalogError, match='need 8,640 bytes'): cache_pictures(images, prep(), folder=tmp_path/'cache')
    assert files(tmp_path/'cache') == []

def test_a_folder_that_cannot_be_written(images, tmp_path):
    (tmp_path/'file').touch()
    with pytest.raises(CatalogError, match='cannot hold decoded pictures.*CATALOG_TAGGER_CACHE'):
        cache_pictures(images, prep(), folder=tmp_path/'file'/'cache')

def test_the_folder_is_named_by_the_environment(images, tmp_path, monkeypatch):
    monkeypatch.delenv('CATALOG_TAGGER_CACHE', raising=False); monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'xdg'))
    assert cache_folder() == tmp_path/'xdg'/'catalog_tagger'
    monkeypatch.setenv('CATALOG_TAGGER_CACHE', str(tmp_path/'mine'))
    cache_pictures(images, prep())
    assert len(files(tmp_path/'mine')) == 1

STOPS = '''
import sys
from catalog_tagger.catalog import picture_cache as decoded
decode = decoded._decode
def stopping(*args):
    for i, rows in enumerate(decode(*args, at_once=4)):
        yield rows
        if i == 2: print('begun', flush=True); sys.stdin.readline()
decoded._decode = stopping
rows = decoded.cache_pictures(sys.argv[2:], decoded.Prep((24, 24), (.5, .5, .5), (.25, .25, .25)), folder=sys.argv[1])
print(rows.sum(), flush=True)
'''

def start(folder, images):
    "A process that has begun to build and waits for a line before it builds the rest."
    res = subprocess.Popen([sys.executable, '-c', STOPS, str(folder), *images], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert res.stdout.readline() == 'begun\n'
    return res

def test_two_processes_build_at_once(images, tmp_path):
    many, folder = images*10, tmp_path/'cache'
    both = [start(folder, many) for _ in range(2)]
    assert [p.communicate('\n', timeout=120)[0] for p in both] == [f'{rows(many, prep()).sum()}\n']*2
    assert len(files(folder)) == 1
    assert np.array_equal(cache_pictures(many, prep(), folder=folder), rows(many, prep()))

def test_a_killed_build_leaves_nothing_that_is_taken_for_whole(images, tmp_path):
    many, folder = images*20, tmp_path/'cache'
    p = start(folder, many)
    p.send_signal(signal.SIGKILL); p.wait()
    left, = folder.iterdir()
    assert left.name.startswith('.') and left.suffix == '.tmp'
    assert np.array_equal(cache_pictures(many, prep(), folder=folder), rows(many, prep()))
    assert not left.exists(), 'the next build sweeps away what a killed one left'
    foreign = folder/'.decoded-1.npy.0f3a.tmp'; foreign.touch(); cache_pictures(many, prep((25, 25)), folder=folder)
    os.utime(foreign, (0, 0)); cache_pictures(many, prep((26, 26)), folder=folder)
    assert not foreign.exists(), 'and what another machine left, a day later'

@pytest.mark.parametrize('turn', [1, 6])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('size', [(128, 96), (32, 200)])
def test_a_draft_keeps_twice_what_is_asked_for(tmp_path, turn, mode, size):
    exif = Image.Exif(); exif[0x0112] = turn
    y, x = np.mgrid[:1100, :901]
    im = Image.fromarray((128 + 60*np.sin(x/40) + 60*np.cos(y/60)).astype(np.uint8)).convert(mode)
    im.save(tmp_path/'x.jpg', quality=90, exif=exif)
    full, some = open_image(tmp_path/'x.jpg'), open_image(tmp_path/'x.jpg', draft=size)
    assert some.width < full.width and some.width >= 2*size[1] and some.height >= 2*size[0]
    a, b = (np.asarray(o.resize(size[::-1], Image.Resampling.BILINEAR), int) for o in (full, some))
    assert np.abs(a - b).mean() < 1

def test_a_picture_in_hand_is_not_changed_by_a_draft(tmp_path):
    Image.new('RGB', (800, 800)).save(tmp_path/'x.jpg')
    im = Image.open(tmp_path/'x.jpg')
    assert open_image(im, draft=(8, 8)).size == im.size == (800, 800)
