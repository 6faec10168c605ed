"""Forgeries of files that a loader reads, and a measure of what it costs to read them.

A forgery keeps the format and changes what is said in it: a value, a shape, a number of items, a text that no terminal should get."""
import io, json, signal, struct, sys, threading, tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

TEXTS = st.sampled_from(['', ' ', 'x', 'Red', 'Shoes', 'label', '__proto__', '../x', 'x'*5000, 'half \ud800', 'Red\x1b[2J', '\x9b1A',
                         'a\0b', '\u202eback', 'ß'*300, 'a=b', '=1+1', '{}', 'source.score', 'score', 'group', 'image'])
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 31, 64, 65, 4096, 10**6, 2**31, 2**63, 10**12, 10**40, .5, -.5, 1e-300, 1e300, 2.5])
VALUES = st.recursive(TEXTS | NUMBERS | st.booleans() | st.none(),
                      lambda o: st.lists(o, max_size=3) | st.dictionaries(TEXTS, o, max_size=3), max_leaves=6)
MANY = st.sampled_from([2, 50, 2000, 40_000])   # Copies of an item

def _place(draw, d):
    "A container in the JSON `d`, and one of its keys."
    while True:
        k = draw(st.sampled_from(sorted(d) if isinstance(d, dict) else range(len(d))))
        if not isinstance(d[k], (dict, list)) or not d[k] or draw(st.booleans()): return d, k
        d = d[k]

def _nested(n, o=0):
    for _ in range(n): o = [o]
    return o

def forge_json(draw, data:bytes)->bytes:
    "A JSON in which something is changed, missing, added, moved, repeated or nested."
    d = [json.loads(data)]
    for _ in range(draw(st.integers(1, 3))):
        at, k = _place(draw, d); o = at[k]
        how = draw(st.sampled_from(['value', 'value', 'gone', 'more', 'other', 'many', 'deep']))
        if how == 'value': at[k] = draw(VALUES)
        elif how == 'gone' and at is not d: del at[k]
        elif how == 'more':
            if isinstance(o, dict): o[draw(TEXTS)] = draw(VALUES)
            elif isinstance(o, list): o.append(draw(VALUES))
        elif how == 'other': (b, j) = _place(draw, d); at[k] = json.loads(json.dumps(b[j])) if b is not d else draw(VALUES)
        elif how == 'many' and isinstance(o, list) and o: at[k] = o*draw(MANY)
        elif how == 'many' and isinstance(o, dict) and o:
            at[k] = o | {f'{x} {i}': v for x, v in list(o.items())[:1] for i in range(draw(MANY))}
        elif how == 'deep': at[k] = _nested(draw(st.sampled_from([3, 20, 60])), o)
    return json.dumps(d[0], ensure_ascii=draw(st.booleans())).encode('utf-8', 'surrogatepass') if d else b''

def forge_bytes(draw, data:bytes)->bytes:
    "Data that are cut, repeated, or changed in a byte."
    i = draw(st.integers(0, max(0, len(data) - 1)))
    how = draw(st.sampled_from(['cut', 'twice', 'byte', 'empty', 'zeros']))
    return dict(cut=data[:i], twice=data + data, byte=data[:i] + bytes([draw(st.integers(0, 255))]) + data[i+1:], empty=b'',
                zeros=bytes(1000))[how]

def forge_array(draw, data:bytes)->bytes:
    "An .npy with another shape, type or value."
    a = np.load(io.BytesIO(data)).copy(); how = draw(st.sampled_from(['shape', 'type', 'value', 'rows', 'header']))
    if how == 'shape': a = a.reshape(draw(st.sampled_from([(-1,), (1, *a.shape), a.shape[::-1]])))
    elif how == 'type': a = a.astype(draw(st.sampled_from(['f2', 'f8', 'i4', '>f4', 'c8', 'U4'])))
    elif how == 'value': a.flat[draw(st.integers(0, a.size - 1))] = draw(st.sampled_from([0, 5, np.nan, np.inf, -1, 1e-30]))
    elif how == 'rows':
        a = a[:draw(st.integers(0, len(a)))] if draw(st.booleans()) else np.repeat(a, draw(st.sampled_from([2, 50])), 0)
    np.save(f := io.BytesIO(), a)
    if how != 'header': return f.getvalue()
    n = draw(st.sampled_from([2**20, 2**40, 2**62, -1, 0]))
    return f.getvalue().replace(f'({a.shape[0]},'.encode(), f'({n},'.encode())

def forge_tensors(draw, data:bytes)->bytes:
    "A .safetensors whose header says something else."
    n, = struct.unpack('<Q', data[:8]); head, body = json.loads(data[8:8+n]), data[8+n:]
    k = draw(st.sampled_from(sorted(o for o in head if o != '__metadata__'))); o = head[k]
    how = draw(st.sampled_from(['name', 'gone', 'shape', 'type', 'offsets', 'length', 'value', 'meta']))
    if how == 'name': head[draw(TEXTS) or 'x'] = head.pop(k)
    elif how == 'gone': del head[k]
    elif how == 'shape': o['shape'] = draw(st.lists(st.sampled_from([0, 1, 2, 2**20, 2**40, 2**63 - 1]), max_size=4))
    elif how == 'type': o['dtype'] = draw(st.sampled_from(['F64', 'F16', 'I64', 'BOOL', 'X', 3]))
    elif how == 'offsets': o['data_offsets'] = draw(st.lists(st.sampled_from([0, 1, 4, 2**40, -1]), min_size=2, max_size=2))
    elif how == 'meta': head['__metadata__'] = {draw(TEXTS): draw(TEXTS)}
    elif how == 'value': body = body[:len(body)//2] + b'\xff'*8 + body[len(body)//2 + 8:]
    text = json.dumps(head).encode()
    return struct.pack('<Q', draw(st.sampled_from([0, 2**31, 2**63])) if how == 'length' else len(text)) + text + body

def forge_table(draw, data:bytes)->bytes:
    "A CSV that is wide, long, torn or has odd cells."
    return draw(st.sampled_from([data + b','*200_000, b','*100_000 + b'\n' + data, data + b'"', data + b'x,1\n', data + b'\n\0\n', data*2,
                                 data + b'a,1,b\n'*20_000,
                                 data + b'"' + b'y'*200_000 + b'",1,r\n', data + b'a,1,b,' + b'c,'*50_000 + b'\n']))

FORGERS = {'.json': forge_json, '.npy': forge_array, '.safetensors': forge_tensors, '.csv': forge_table}

@st.composite
def forgeries(draw, files:dict):
    "The `files` of a folder, name → content, with a forged one."
    name = draw(st.sampled_from(sorted(files))); suffix = name[name.rindex('.'):] if '.' in name else ''
    forge = forge_bytes if draw(st.integers(0, 9)) == 0 else FORGERS.get(suffix, forge_bytes)
    return files | {name: forge(draw, files[name])}

@dataclass
class Cost:
    "What a block cost."
    calls:int = 0    # Calls of Python functions
    peak:int = 0     # Bytes, without those of torch

@contextmanager
def measured():
    "The `Cost` of the block, known at its end."
    cost = Cost()
    def count(frame, event, arg): cost.calls += event == 'call'
    old = sys.getprofile(); tracemalloc.start(); sys.setprofile(count)
    try: yield cost
    finally: sys.setprofile(old); cost.peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()

@contextmanager
def no_hang(seconds:int):
    "End the block with an error if it takes much too long; where there is no alarm, it is not guarded."
    if not hasattr(signal, 'SIGALRM') or threading.current_thread() is not threading.main_thread(): yield; return
    def stop(*_): raise AssertionError(f'not done after {seconds} s')
    old = signal.signal(signal.SIGALRM, stop); signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, old)
