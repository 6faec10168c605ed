"""Killed, or out of space, at any file operation: the next call finishes the job, and nothing that was whole is spoilt.

Run as a script, `test_breaks.py FOLDER`, it calls the command in children of its own, each of which ends at one of its file operations:
an audit hook counts what opens a file for writing, makes, renames or removes one. A test run tries a few operations of each job, spread
over all of them and with the last ones; CATALOG_TAGGER_BREAKS=all tries every one."""
import errno, hashlib, json, os, re, resource, shutil, signal, subprocess, sys, warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

MOST = None if os.environ.get('CATALOG_TAGGER_BREAKS') == 'all' else 4    # Operations of a job at which it ends
WRITES = {'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink', 'os.truncate'}
NEEDS_SPACE = {'open', 'os.mkdir', 'os.link', 'os.symlink'}
TRAIN = ['--size', '32', '--bs', '16', '--freeze-epochs', '1', '--epochs', '1', '--tta', '1']

# ---- children

class Ops:
    "Counts the file operations below `root`, and at number `at` kills the process (`kill`), or from there on finds no space (`full`)."
    def __init__(self, root, at=None, how='kill'):
        self.root, self.at, self.how, self.n, self.names = str(root), at, how, 0, []
        sys.addaudithook(self)

    def __call__(self, event, args):
        if event != 'open' and event not in WRITES: return
        if event == 'open' and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT): return
        path = os.fsdecode(args[0]) if isinstance(args[0], (str, bytes, os.PathLike)) else ''
        if not os.path.abspath(path).startswith(self.root): return
        self.n += 1; self.names.append(f'{event} {os.path.relpath(path, self.root)}')
        if self.at is None or self.n < self.at: return
        if self.how == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if event in NEEDS_SPACE: raise OSError(errno.ENOSPC, 'No space left on device', path)

def child(root:Path, args, at=None, how='kill', limit=None):
    "How a call of the command ends in a child, what it printed on standard error, and its file operations."
    from catalog_tagger.apps.cli import main
    seen, (near, far) = root.parent/'seen.json', os.pipe()     # a pipe, because a file would be limited too
    if not (pid := os.fork()):
        os.dup2(far, 2); os.dup2(os.open(os.devnull, os.O_WRONLY), 1); os.close(near); os.close(far)
        code, ops = 1, Ops(root, at, how)
        try:
            if limit is not None: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            code = main([str(o) for o in args])
        except BaseException: import traceback; traceback.print_exc()
        finally:
            sys.stderr.flush(); resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,)*2)
            ops.root = '\0'; seen.write_text(json.dumps(ops.names)); os._exit(code)
    os.close(far)
    with open(near) as f: err = f.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, err, json.loads(seen.read_text()) if code >= 0 and seen.exists() else []

# ---- jobs

def digest(path:Path):
    "The content of a file or of all files of a folder, without temporary ones."
    files = [path] if path.is_file() else sorted(o for o in path.rglob('*') if o.is_file()) if path.is_dir() else []
    return {o.relative_to(path.parent).as_posix(): hashlib.sha256(o.read_bytes()).hexdigest() for o in files
            if '.tmp' not in str(o) and '.ready' not in str(o)}

def is_whole(kind:str, out:Path):
    "Can what stands at `out` be opened? None if nothing does."
    from catalog_tagger.core.files import CatalogError, finish_save
    from catalog_tagger.runs.folder import Run, is_run
    from catalog_tagger.search.embed import load_embeddings
    from catalog_tagger.search.index import SimilarIndex
    if kind in ('train', 'fetch') and not any(not o.name.startswith('.') for o in (out.iterdir() if out.is_dir() else ())): return None
    if not out.exists(): return None
    try:
        if kind == 'index': return len(SimilarIndex.load(out).table) > 0
        if kind == 'embed': return len(load_embeddings(out).ids) > 0
        if kind == 'train':
            if not is_run(out): return None
            r = Run.open(out); return not r.finished or len(r.tagger().space.vocab) == len(r.labels.vocab) and len(r.split) > 0
        if kind == 'tag': return out.read_text().startswith('image,') and out.read_text().endswith('\n')
        if kind == 'report': return out.read_text().rstrip().endswith('</html>')
        return True
    except CatalogError as e: return f'{e}'

class Pictures(BaseHTTPRequestHandler):
    files = {}
    def log_message(self, *_): pass
    def do_GET(self):
        data = self.files.get(self.path.rpartition('/')[2], b'')
        self.send_response(200 if data else 404); self.send_header('Content-Length', str(len(data))); self.end_headers()
        self.wfile.write(data)

def jobs(work:Path, host:str):
    "Name → the command, what it writes below `work`, and what stands there before."
    shop, run, new = work.parent/'shop', work.parent/'run', work.parent/'new'
    return {
        'train': (['train', shop, '--out', work/'run', *TRAIN, '--resume'], work/'run', None),
        'train again': (['train', shop, '--out', work/'run', *TRAIN, '--seed', '7'], work/'run', 'run'),
        'tag': (['tag', run, new, '--out', work/'tags.csv'], work/'tags.csv', None),
        'embed': (['embed', run, new, '--out', work/'embeddings'], work/'embeddings', None),
        'index': (['index', run, shop, '--out', work/'index'], work/'index', None),
        'index again': (['index', run, shop, '--out', work/'index', '--layer', 'concat'], work/'index', 'index'),
        'report': (['report', run, '--out', work/'report.html'], work/'report.html', None),
        'fetch': (['fetch', work.parent/'export'/'products_export.csv', '--out', work/'near', '--allow-host', host], work/'near', None)}

def points(n:int)->list[int]:
    "The operations, counted from 1, at which a job of `n` ends."
    if MOST is None or n <= MOST: return list(range(1, n + 1))
    return sorted({*(round(1 + i*(n - 1)/(MOST//2)) for i in range(MOST//2)), *range(n - MOST//2 + 1, n + 1)})

def prepare(root:Path):
    from catalog_tagger.apps.cli import main
    from catalog_tagger.testing.demo import demo_styles, shop_pictures
    from catalog_tagger.testing.exports import demo_export
    demo_styles(root/'shop', 24, size=32); demo_export(root/'export', 'shopify', 4, address='http://HOST/media')
    Pictures.files = shop_pictures(4, size=32)
    web = ThreadingHTTPServer(('127.0.0.1', 0), Pictures); Thread(target=web.serve_forever, daemon=True).start()
    host = f'127.0.0.1:{web.server_port}'
    f = root/'export'/'products_export.csv'; f.write_text(f.read_text().replace('HOST', host))
    (root/'new').mkdir()
    for o in sorted((root/'shop'/'images').iterdir())[:10]: shutil.copy(o, root/'new'/o.name)
    assert main(['train', str(root/'shop'), '--out', str(root/'run'), *TRAIN]) == 0
    assert main(['index', str(root/'run'), str(root/'shop'), '--out', str(root/'index')]) == 0
    return host

def before(root:Path, work:Path, out:Path, old:str|None):
    shutil.rmtree(work, ignore_errors=True); shutil.rmtree(root/'cache', ignore_errors=True); work.mkdir()
    if old: shutil.copytree(root/old, out)

def leftovers(work:Path):
    ends = ('.tmp', '.ready', '.parts', '.gone', '.embeddings')
    return sorted(str(o.relative_to(work)) for o in work.rglob('*') if o.name.endswith(ends))

def one_line(err): return [o for o in err.splitlines() if o.startswith('catalog_tagger: ')]

def break_job(root, work, name, args, out, old, how, at, limit=None):
    "What a break leaves, and how the next call ends."
    kind = name.split()[0]; before(root, work, out, old); was = digest(out)
    code, err, _ = child(work, args, at, how, limit)
    left = digest(out); whole = is_whole(kind, out)
    kept = all(left.get(k) == v for k, v in was.items())
    code2, err2, _ = child(work, args)
    return dict(job=name, how=how, at=at, limit=limit, code=code, err=err[-2000:], whole=whole, kept=kept, had=bool(was),
                next=code2, next_err=err2[-2000:], then=is_whole(kind, out), leftovers=leftovers(work))

def main_script(root:Path):
    warnings.simplefilter('ignore')
    os.environ['CATALOG_TAGGER_CACHE'] = str(root/'work'/'cache')
    import torch
    torch.set_num_threads(1)
    host = prepare(root); work, found, counts = root/'work', [], {}
    only = os.environ.get('CATALOG_TAGGER_BREAKS_ONLY', '').split(',') if os.environ.get('CATALOG_TAGGER_BREAKS_ONLY') else None
    for name, (args, out, old) in jobs(work, host).items():
        if only and name not in only: continue
        before(root, work, out, old); code, err, ops = child(work, args)
        counts[name] = ops
        if code: found.append(dict(job=name, how='unbroken', code=code, err=err)); continue
        big = max((o.stat().st_size for o in work.rglob('*') if o.is_file()), default=0)
        for at in points(len(ops)): found.append(break_job(root, work, name, args, out, old, 'kill', at))
        for at in points(len(ops)): found.append(break_job(root, work, name, args, out, old, 'full', at))
        for limit in sorted({int(big*o) for o in ((.01, .2, .9) if MOST else (0, .001, .01, .03, .1, .2, .4, .6, .9, .99))}):
            found.append(break_job(root, work, name, args, out, old, 'limit', None, limit))
        (root/'found.json').write_text(json.dumps(dict(found=found, counts=counts)))
    (root/'found.json').write_text(json.dumps(dict(found=found, counts=counts)))

@pytest.fixture(scope='module')
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp('breaks')
    r = subprocess.run([sys.executable, '-W', 'ignore', __file__, root], env=os.environ | dict(OMP_NUM_THREADS='1'), text=True,
                       capture_output=True)
    assert r.returncode == 0, r.stderr
    return json.loads((root/'found.json').read_text())

JOBS = ['train', 'train again', 'tag', 'embed', 'index', 'index again', 'report', 'fetch']

def broken(found, name, *how):
    res = [o for o in found['found'] if o['job'] == name and o['how'] in how]
    assert len(res) > 2 and found['counts'][name], found['found']
    return res

def assert_ended(o):
    "The next call did the job, found it done, or said in one sentence why it may not replace what a call has left."
    if o['next'] == 2: assert len(one_line(o['next_err'])) == 1 and 'finished it' in o['next_err'], o
    else: assert o['next'] in (0, 5), o
    assert (o['then'], o['leftovers']) == (True, []), o

@pytest.mark.parametrize('name', JOBS)
def test_a_kill_spoils_nothing_and_the_next_call_finishes(found, name):
    for o in broken(found, name, 'kill'):
        assert o['code'] == -signal.SIGKILL and (o['whole'] is True or not o['had']), o
        assert_ended(o)

@pytest.mark.parametrize('name', JOBS)
def test_a_full_disk_is_one_sentence_and_spoils_nothing(found, name):
    for o in broken(found, name, 'full', 'limit'):
        assert o['code'] in (0, 2) and (o['whole'] is True or not o['had']), o
        if o['code'] == 0: assert o['whole'] is True, o     # what failed then was only to be tidied up
        else:
            assert 'Traceback' not in o['err'] and len(one_line(o['err'])) == 1, o
            assert re.search('no space (is )?left|free disk space|delete those', o['err'], re.I), o
        assert_ended(o)

if __name__ == '__main__': main_script(Path(sys.argv[1]).resolve())
