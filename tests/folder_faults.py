"What spoils a sealed folder, and a test that it ends in one error, runs nothing, reads nothing outside and changes nothing."
import os, pickle, shutil, sys
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest, torch

class Bomb:
    "Unpickled, it writes a file."
    def __init__(self, path): self.path = str(path)
    def __reduce__(self): return (open, (self.path, 'w'))

# Every open, unpickled name and process that Python sees while `heard` is a list
heard = None
def _listen(event, args):
    if heard is not None and event in ('open', 'pickle.find_class', 'subprocess.Popen', 'os.system', 'socket.connect'):
        heard.append((event, str(args[0])))
sys.addaudithook(_listen)

@contextmanager
def listening():
    "What is opened, unpickled and started in the block, as a list of event and name."
    global heard
    heard = []
    try: yield heard
    finally: heard = None

def cut(name, share): return lambda d: (d/name).write_bytes((data := (d/name).read_bytes())[:int(len(data)*share)])
def flip(name, seed):
    def do(d):
        data = bytearray((d/name).read_bytes()); data[Random(f'{name}{seed}').randrange(len(data))] ^= 1 << seed
        (d/name).write_bytes(data)
    return do
def linked(name):
    def do(d): shutil.move(d/name, d.parent/'outside'/name); (d/name).symlink_to(d.parent/'outside'/name)
    return do
def folder(name): return lambda d: ((d/name).unlink(), (d/name).mkdir())
def pipe(name): return lambda d: ((d/name).unlink(), os.mkfifo(d/name))
def planted(name): return lambda d: (d/name).write_bytes(pickle.dumps(Bomb(d.parent/'exploded')))

def spoilt_files(names, shares=(0, .5, .999), bits=3):
    "Name → what it does to a folder of the files `names`: whatever sums tell."
    res = {'a folder beside': lambda d: (d/'code').mkdir(), 'a link beside': lambda d: (d/'code').symlink_to(d.parent/'outside')}
    for name in names:
        res |= {f'{name} is {why}': f
                for why, f in dict(missing=lambda d, name=name: (d/name).unlink(), linked=linked(name), a_folder=folder(name)).items()}
        res |= {f'{name} cut at {share}': cut(name, share) for share in shares}
        res |= {f'{name} bit {seed}': flip(name, seed) for seed in range(bits)}
        res |= {f'{name} and more': lambda d, name=name: (d/name).write_bytes((d/name).read_bytes() + b'\n')}
    return res

def spoilt_sums(name):
    "Name → what it does to the sums of a folder, of whose files `name` is one."
    def sums(change): return lambda d: (d/'SHA256SUMS').write_text(change((d/'SHA256SUMS').read_text()))
    return {f'sums {k}': sums(f) for k, f in {
        'upwards': lambda s: s.replace(name, f'../{name}'), 'absolute': lambda s: s.replace(name, '/etc/passwd'), 'twice': lambda s: s + s,
        'reversed': lambda s: '\n'.join(s.split('\n')[::-1]),
        'short': lambda s: s[:64], 'of nothing': lambda s: '0'*64 + s[64:], 'of two': lambda s: s.split('\n', 1)[1], 'long': lambda s: s*40,
        'uppercase': str.upper, 'with one more': lambda s: s + '0'*64 + '  x.pkl\n'}.items()}

def as_params(plain, signed):
    "Mutations as parameters of a test, those of `signed` get right sums afterwards."
    return [pytest.param(f, again, id=k.encode('ascii', 'replace').decode()) for d, again in ((plain, False), (signed, True))
            for k, f in d.items()]

def snapshot(root:Path):
    "Everything below `root`: kind, and what it holds."
    return {str(o): os.readlink(o) if o.is_symlink() else o.read_bytes() if o.is_file() else o.lstat().st_mode
            for o in sorted(root.rglob('*'))}

def check_one_error(whole, tmp_path, mutate, sign, load, error, names):
    "A copy of the folder `whole` after `mutate`, and after `sign` if there is one, ends `load` in one `error` and in nothing else."
    d = tmp_path/'folder'; (tmp_path/'outside').mkdir()
    shutil.copytree(whole, d); mutate(d)
    if sign: sign(d)
    before, state = snapshot(tmp_path), torch.get_rng_state()
    with listening() as events, pytest.raises(error) as e: load(d)
    assert type(e.value) is error and '\n' not in str(e.value) and str(e.value).startswith(f'{d} cannot be loaded: ')
    assert snapshot(tmp_path) == before and torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path/'exploded').exists()
    assert {o for o, _ in events} <= {'open'}
    assert {Path(o).resolve() for _, o in events if str(tmp_path) in o} <= {d/o for o in names}
    assert not any('passwd' in o for _, o in events)

def check_canary(tmp_path):
    "What the mutations plant does run when it is unpickled, and is heard."
    with listening() as events: pickle.loads(pickle.dumps(Bomb(tmp_path/'exploded')))
    assert (tmp_path/'exploded').exists() and ('open', str(tmp_path/'exploded')) in events
    assert any(o == 'pickle.find_class' for o, _ in events)
