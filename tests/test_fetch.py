"Pictures by address: what is whole comes in and nothing else, whatever a server answers; nothing inside of the network is asked."
import csv, errno, gzip, json, os, signal, socket, ssl, struct, subprocess, sys, threading, zlib
from collections import Counter
from email.utils import formatdate
from io import BytesIO
from pathlib import Path
from time import sleep, time

import httpcore, numpy as np, pandas as pd, pytest
from PIL import Image
from processes import in_child

from catalog_tagger.catalog import address as address_module
from catalog_tagger.catalog.address import AddressError, PublicNetwork, connections, not_public, open_address, parse_address, parse_hosts
from catalog_tagger.catalog.csv_tables import csv_rows, read_rows
from catalog_tagger.catalog.fetch import Again, Fetched, Fetcher, fetch_catalog, fetch_many, file_stem
from catalog_tagger.catalog.prepare import read_audited
from catalog_tagger.catalog.read import find_layout, read_catalog
from catalog_tagger.core.config import FetchSettings, RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import read_table

samples = Path(__file__).parent/'samples'

@pytest.fixture(autouse=True)
def no_hang():
    "A server that is waited for fails its test."
    signal.alarm(300); yield; signal.alarm(0)

def data(fmt='JPEG', colour='red', size=(32, 32)):
    Image.new('RGB', size, colour).save(b := BytesIO(), fmt)
    return b.getvalue()

def http(body=b'', status='200 OK', **headers):
    "The bytes of an answer; `content_length=None` leaves that header out."
    headers = {'content_length': len(body)} | headers
    lines = [f'HTTP/1.1 {status}', *(f'{k.replace("_", "-")}: {v}' for k, v in headers.items() if v is not None)]
    return '\r\n'.join(lines).encode('latin-1') + b'\r\n\r\n' + body

def moved(to, status='302 Found'): return http(status=status, location=to)

class Server:
    "Answers on the loopback with raw bytes, or with what a function does to the connection; `asked` counts the paths."
    def __init__(self, answers=None, default=None, tls=None):
        self.answers, self.default, self.tls = answers or {}, default or http(data()), tls
        self.asked, self.heads, self.lock = Counter(), [], threading.Lock()
        self.socket = socket.create_server(('127.0.0.1', 0), backlog=128)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try: conn, _ = self.socket.accept()
            except OSError: return
            threading.Thread(target=self.serve, args=[conn], daemon=True).start()

    def serve(self, conn):
        try:
            if self.tls: conn = self.tls.wrap_socket(conn, server_side=True)
            with conn:
                while head := self.head(conn):
                    path = head.split(b' ')[1].decode()
                    with self.lock: self.asked[path] += 1; self.heads.append(head.decode('latin-1'))
                    answer = self.answers.get(path, self.default)
                    if callable(answer): answer(conn); return
                    conn.sendall(answer)
                    if b'content-length' not in answer: return
        except OSError: pass

    @staticmethod
    def head(conn):
        res = b''
        while not res.endswith(b'\r\n\r\n'):
            if not (o := conn.recv(4096)): return b''
            res += o
        return res

    def at(self, path, host='localhost'): return f'http://{host}:{self.port}{path}'
    def __enter__(self): return self
    def __exit__(self, *_): self.socket.close()

def table(path, rows, columns=('image', 'tags')):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path

def fetched(tmp, addresses, **kw):
    "What `fetch_catalog` says of each address: the name of its file, or the reason why there is none."
    kw = dict(allow_host=['localhost'], retries=1, workers=32, per_host=32) | kw
    source = table(tmp/'export.csv', [(o, 'red') for o in addresses])
    try: res = fetch_catalog(source, tmp/'shop', **kw)
    except CatalogError: return dict(read_table(tmp/'shop'/'rejected.csv')[['address', 'reason']].values)
    return dict(res.fetched[['address', 'file']].values) | dict(res.rejected[['address', 'reason']].values)

# --- addresses

PRIVATE = """
    0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1
    192.88.99.1
    192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1 ::7f00:1 ::ffff:127.0.0.1
    ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b:1::a00:1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:db8::1 2002:7f00:1::1
    2002:a00:1:: 2002:c0a8:101::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1""".split()
PUBLIC = """
    1.1.1.1 8.8.8.8 93.184.216.34 172.15.0.1 172.32.0.1 192.167.1.1 2606:4700::1111 2a00:1450:4001::1 ::ffff:8.8.8.8 64:ff9b::808:808
    2002:808:808::1""".split()

@pytest.mark.parametrize('ip', PRIVATE)
def test_an_address_that_is_not_public(ip): assert not_public(ip)

@pytest.mark.parametrize('ip', PUBLIC)
def test_a_public_address(ip): assert not_public(ip) is None

def literal(ip): return f'[{ip}]' if ':' in ip else ip

REFUSED = {   # Part of the reason → addresses
    '': [*(f'http://{literal(o)}/a.jpg' for o in PRIVATE), *(f'https://{literal(o)}:8443/a.jpg' for o in PRIVATE[:8]), 'http://0177.0.0.1/',
         'http://127.0.0.1./', 'http://localhost./', 'http://127。0。0。1/', 'http://127.0.0.1\\.shop.example/', 'http://a..b/',
         'http://xn--/',
         f'http://{"a"*300}.example/'],
    'which is loopback': [
        'http://2130706433/', 'http://0x7f000001/', 'http://0x7f.1/', 'http://127.1/', 'http://127.0.1/', 'http://017700000001/',
        'http://localhost/',
        'http://LOCALHOST:22/', 'http://127.0.0.1#@shop.example/', 'http://127.0.0.1?@shop.example/'],
    'which is unspecified': ['http://0/'], 'which is link-local': ['http://metadata.example/latest'],
    'which is private': ['http://0x0a000001/', 'http://router.example/', 'http://mixed.example/', 'http://mapped.example/'],
    'name of a host': [
        'http://%31%32%37.0.0.1/', 'http://localhost%00.shop.example/', 'http://[::1%25lo]/', 'http://[fe80::1%25eth0]:80/',
        'http:127.0.0.1/a.jpg',
        'http:/127.0.0.1/a.jpg', 'http:///127.0.0.1/a.jpg', 'http://', 'http://:80/', 'http://a b/'],
    'user name': ['http://shop.example@127.0.0.1/', 'http://user:secret@shop.example/', 'http://@127.0.0.1/',
         'http://shop.example\\@127.0.0.1/'],
    'no port': ['http://shop.example:0/', 'http://shop.example:99999/', 'http://shop.example:-1/'],
    'invalid': [
        'http://１２７.０.０.１/', 'http://ⓛocalhost/', 'http://shop.example:8o/', 'http://[::1/', 'http://[zz]/', 'http://shop.example/\x01',
        'http://shop.example/' + 'a'*70_000],
    'not an address of http or https': [
        'file:///etc/passwd', 'FILE:///etc/passwd', 'ftp://shop.example/a.jpg', 'gopher://127.0.0.1:70/_x',
        'data:image/png;base64,iVBORw0KGgo=',
        'javascript:alert(1)', 'jar:http://127.0.0.1!/', '//127.0.0.1/a.jpg', '/etc/passwd', 'a.jpg', 'httpx://shop.example/',
        'http+unix://%2Fvar%2Frun%2Fdocker.sock/'],
    'there is no host': ['http://gone.example/'], 'cannot be resolved': ['http://busy.example/']}
HOSTILE = {o: why for why, addresses in REFUSED.items() for o in addresses}
NAMES = {'router.example': ['192.168.0.1'], 'mixed.example': ['93.184.216.34', '10.0.0.1'], 'mapped.example': ['::ffff:192.168.0.1'],
         'metadata.example': ['169.254.169.254'], 'shop.example': ['93.184.216.34'], 'localhost': ['127.0.0.1', '::1']}

def resolver(host, port, type=0):
    "As the resolver of the system for addresses, and for names as the table says."
    if host in ('busy.example', 'gone.example'):
        raise socket.gaierror(socket.EAI_AGAIN if host == 'busy.example' else socket.EAI_NONAME, 'no answer')
    if ips := NAMES.get(host.rstrip('.').lower()): return [(socket.AF_INET, type, 6, '', (o, port)) for o in ips]
    return socket.getaddrinfo(host, port, type=type, flags=socket.AI_NUMERICHOST)

def test_no_hostile_address_is_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(address_module.httpcore, 'SyncBackend', lambda: asked)      # any connection would fail
    assert len(HOSTILE) > 100
    said = fetched(tmp_path, HOSTILE, resolve=resolver, allow_host=(), retries=0)
    assert asked == [] and list((tmp_path/'shop').glob('images/*')) == []
    assert {k: v for k, v in HOSTILE.items() if v not in said[k]} == {} and all(said.values())

def test_a_host_is_allowed_by_its_name_and_port():
    allowed = ['localhost:8000', 'SHOP.local', '[::1]:80', 'münchen.example']
    assert parse_hosts(allowed) == {('localhost', 8000), ('shop.local', None), ('::1', 80), ('xn--mnchen-3ya.example', None)}
    network = PublicNetwork(allowed, lambda *_, **__: [(2, 1, 6, '', ('10.0.0.1', 80))])
    for o in (('localhost', 8000), ('shop.local', 1), ('shop.local.', 443), ('::1', 80)): assert network.checked(*o) == ['10.0.0.1']
    for o in (('localhost', 80), ('x.shop.local', 1), ('::1', 81), ('10.0.0.1', 80)):
        with pytest.raises(AddressError, match='10.0.0.1, which is private: it is not asked without allow_host='): network.checked(*o)
    for o in ('', 'http://localhost', 'localhost/', 'localhost:', 'localhost:x', 'user@localhost', ':80', 'localhost:123456'):
        with pytest.raises(CatalogError, match='allow_host='): parse_hosts([o])

@pytest.fixture
def internet(monkeypatch):
    "Connections to public addresses end at a server of the loopback; the list of what was connected to."
    def to(server):
        seen = []
        class Loopback(real):
            def connect_tcp(self, host, port, *args):
                seen.append((host, port))
                return super().connect_tcp('127.0.0.1', server.port, *args)
        monkeypatch.setattr(address_module.httpcore, 'SyncBackend', Loopback)
        return seen
    real = httpcore.SyncBackend
    return to

def test_a_name_that_is_bound_anew_is_asked_where_it_was_checked(tmp_path, internet):
    "The first answer for the name is public, each later one is this machine."
    answers = iter([['93.184.216.34']] + [['127.0.0.1']]*9)
    resolve = lambda host, port, type: [(2, type, 6, '', (o, port)) for o in next(answers)]
    with Server({'/b.jpg': lambda conn: conn.close()}) as server:
        seen = internet(server)
        said = fetched(tmp_path, ['http://shop.example/a.jpg', 'http://shop.example/b.jpg'], resolve=resolve, allow_host=(), per_host=1)
    assert seen == [('93.184.216.34', 80)] and server.asked['/a.jpg'] == 1
    assert said['http://shop.example/a.jpg'].endswith('.jpg')
    assert '127.0.0.1, which is loopback' in said['http://shop.example/b.jpg']

def test_the_first_address_that_answers_is_taken(internet, monkeypatch):
    with Server() as server:
        seen = internet(server); real = address_module.httpcore.SyncBackend
        class FirstIsDown(real):
            def connect_tcp(self, host, *args):
                if host == '2606:4700::1': seen.append(host); raise httpcore.ConnectError('unreachable')
                return super().connect_tcp(host, *args)
        monkeypatch.setattr(address_module.httpcore, 'SyncBackend', FirstIsDown)
        network = PublicNetwork((), lambda host, port, type: [(2, type, 6, '', (o, port)) for o in ('2606:4700::1', '93.184.216.34')])
        with connections(network) as pool, open_address(pool, 'http://shop.example/a.jpg') as (status, *_): assert status == 200
    assert seen == ['2606:4700::1', ('93.184.216.34', 80)]

@pytest.fixture
def tls():
    "The context of a server with the certificate of shop.example, and that of a client which trusts it alone."
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=samples/'tls'/'shop.example.pem')
    server.load_cert_chain(samples/'tls'/'shop.example.pem')
    return server, client

def test_a_certificate_is_checked_by_the_name(tmp_path, internet, tls):
    names = []
    tls[0].sni_callback = lambda conn, name, context: names.append(name)
    with Server(tls=tls[0]) as server:
        internet(server)
        resolve = lambda host, port, type: [(2, type, 6, '', ('93.184.216.34', port))]
        kw = dict(resolve=resolve, allow_host=(), ssl_context=tls[1])
        said = fetched(tmp_path, ['https://shop.example/a.jpg', 'https://other.example/a.jpg'], **kw)
    assert said['https://shop.example/a.jpg'].endswith('.jpg') and 'host: shop.example\r\n' in server.heads[0].lower()
    assert said['https://other.example/a.jpg'].startswith('no secure connection') and 'other.example' in said['https://other.example/a.jpg']
    assert sorted(names) == ['other.example', 'shop.example'] and server.asked == {'/a.jpg': 1}

def test_an_unknown_certificate_or_none_is_no_secure_connection(tmp_path, tls):
    class Plain:
        "Answers without waiting for a handshake."
        def wrap_socket(self, conn, **_): conn.sendall(http(jpeg)); raise OSError
    with Server(tls=tls[0]) as unknown, Server(tls=Plain()) as plain:
        said = fetched(tmp_path, [f'https://localhost:{o.port}/a.jpg' for o in (unknown, plain)])
    assert all(o.startswith('no secure connection') for o in said.values()) and not unknown.asked and not plain.asked

# --- servers

def drip(start, byte, every=.05):
    "Sends `start`, and then a byte now and again."
    def answer(conn):
        conn.sendall(start)
        while True: conn.sendall(byte); sleep(every)
    return answer

def endless(start, chunk):
    def answer(conn):
        conn.sendall(start)
        while True: conn.sendall(chunk)
    return answer

def reset(start):
    "Sends `start` and resets the connection."
    def answer(conn):
        conn.sendall(start); sleep(.05)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); conn.close()
    return answer

def silent(conn): conn.recv(1)

def raw(answer): return lambda conn: conn.sendall(answer)     # and closes

def packed(body, encoding='gzip'): return http(body, content_encoding=encoding)

jpeg, big = data(), data('BMP', size=(900, 900))
bomb = gzip.compress(bytes(50_000_000))
huge_png = b'\x89PNG\r\n\x1a\n' + b'\0\0\0\rIHDR' + struct.pack('>II', 60_000, 60_000) + b'\x08\x02\0\0\0'
huge_png += struct.pack('>I', zlib.crc32(huge_png[12:])) + b'\0\0\0\0IDAT' + struct.pack('>I', zlib.crc32(b'IDAT'))
chunked = http(content_length=None, transfer_encoding='chunked')

AWAY = {   # To where a server redirects → part of the reason
    'http://127.0.0.1:{port}/a': 'loopback', 'http://[::1]:{port}/a': 'loopback', 'http://2130706433:{port}/': 'loopback',
    'https://[::ffff:7f00:1]/': 'loopback', '//0.0.0.0:{port}/': 'unspecified', 'http://10.0.0.1/': 'private',
    'http://169.254.169.254/latest/meta-data/': 'link-local', 'http://user@localhost:{port}/a': 'user name',
    'http://[::1': 'invalid address',
    'http://localhost:0/': 'no port', 'http://%6cocalhost/': 'invalid address',
    **dict.fromkeys(('file:///etc/passwd', 'ftp://localhost/a', 'gopher://localhost/', 'javascript:x',
                     'data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='), 'not an address of http')}

ANSWERS = {   # What a server answers → part of the reason, or the suffix of the file
    # a status
    **{f's{o}': (http(status=f'{o} x'), f'status {o}') for o in (201, 202, 204, 300, 304, 305, 400, 401, 403, 404, 408, 410, 418, 600,
    999)},
    **{f's{o}': (http(status=f'{o} x'), f'status {o}') for o in (429, 500, 501, 502, 503, 504, 520)},
    '206': (http(jpeg[:50], '206 Partial Content', content_range='bytes 0-49/99'), 'status 206 Partial Content'),
    'later': (http(status='429 x', retry_after='3600'), 'the server asks to wait 3,600 s'),
    'much-later': (http(status='503 x', retry_after=formatdate(time() + 10**6, usegmt=True)), 'the server asks to wait'),
    'past': (http(status='503 x', retry_after=formatdate(0, usegmt=True)), 'status 503 Service Unavailable, 2 times'),
    **{f'wait{i}': (http(status='429 x', retry_after=o), 'status 429') for i, o in enumerate(('-1', 'nan', '1e9', '', 'soon', '\xb2',
    '0x9'))},
    'escape': (http(status='404 \x1b]0;x'), ''), 'no-status': (raw(b'HTTP/1.1 abc OK\r\n\r\n'), 'connection failed'),
    'upgrade': (raw(b'HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n'), ''),
    # a content
    'html': (http(b'<!DOCTYPE html><p>Not found'), 'its content is HTML'), 'text': (http(b'hello'), 'its content is unknown'),
    'json': (http(b'{"error": 404}', content_type='image/jpeg'), 'its content is unknown'), 'empty': (http(), 'empty file'),
    'svg': (http(b'<svg xmlns="x"/>'), 'its content is SVG'), 'zip': (http(b'PK\3\4' + bytes(99)), 'its content is ZIP'),
    'pdf': (http(b'%PDF-1.7'), 'its content is PDF'), 'heic': (http(b'\0\0\0\x1cftypheic' + bytes(99)), 'its content is HEIC'),
    'cut-jpeg': (http(jpeg[:len(jpeg)//2]), 'truncated'), 'cut-png': (http(data('PNG', size=(99, 99))[:90]), 'truncated'),
    'zeros': (http(bytes(1000)), 'its content is unknown'), 'pixels': (http(huge_png), 'too large'),
    'as-text': (http(jpeg, content_type='text/html'), '.jpg'), 'a.png': (http(jpeg), '.jpg'), 'b.jpg': (http(data('PNG')), '.png'),
    'c.exe': (http(data('GIF')), '.gif'), 'd': (http(data('BMP')), '.bmp'), 'e': (http(data('TIFF')), '.tif'),
    'f': (http(data('WEBP')), '.webp'), 'attached': (http(jpeg, content_disposition='attachment; filename="../../x.sh"'), '.jpg'),
    'cookie': (http(jpeg, set_cookie='a=b'), '.jpg'), 'etag': (http(jpeg, etag='=HYPERLINK("http://x")'), '.jpg'),
    # a redirect
    'loop': (moved('/loop'), 'more than 5 redirects'), 'ping': (moved('/pong'), 'more than 5'), 'pong': (moved('/ping'), 'more than 5'),
    'query': (moved('?x'), '.jpg'), 'to-a': (moved('/as-text', '301 x'), '.jpg'), 'to-b': (moved('as-text', '307 x'), '.jpg'),
    'to-c': (moved('//localhost:{port}/as-text', '308 x'), '.jpg'), 'to-d': (moved('/as-text#top', '303 x'), '.jpg'),
    'nowhere': (http(status='302 x'), 'status 302'), **{f'away{i}': (moved(o), why) for i, (o, why) in enumerate(AWAY.items())},
    # an encoding
    'bomb': (packed(bomb), 'too large: the limit is max_bytes='), 'flat-bomb': (packed(zlib.compress(bytes(50_000_000)), 'deflate'),
    'too large'),
    'twice': (packed(gzip.compress(bomb), 'gzip, gzip'), "encoded as 'gzip, gzip'"), 'br': (packed(jpeg, 'br'), "encoded as 'br'"),
    'no-gzip': (packed(jpeg), 'its content is not gzip'), 'half-gzip': (packed(gzip.compress(jpeg)[:-99]), ''),
    'gzip': (packed(gzip.compress(jpeg), 'GZIP'), '.jpg'), 'deflate': (packed(zlib.compress(jpeg), 'deflate'), '.jpg'),
    # a length
    'large': (http(big), 'too large: 2,430,054 bytes, the limit is max_bytes=1000000'), 'too-long': (http(jpeg, content_length=10**18),
    'too large'),
    'chunks': (chunked + b'%x\r\n%s\r\n0\r\n\r\n' % (len(jpeg), jpeg), '.jpg'), 'no-length': (http(jpeg, content_length=None), '.jpg'),
    'longer': (raw(http(jpeg, content_length=len(jpeg) + 9)), 'connection failed'),
    'shorter': (raw(http(jpeg, content_length=99)), 'truncated'), 'no-chunk': (raw(chunked + b'zz\r\n'), 'connection failed'),
    **{f'length{i}': (raw(http(jpeg, content_length=o)), 'connection failed') for i, o in enumerate(('-1', 'x', '1, 2', '0x9'))},
    'endless': (endless(http(content_length=None), bytes(2**16)), 'too large'),
    'endless-chunks': (endless(chunked, b'1000\r\n' + bytes(4096) + b'\r\n'), 'too large'),
    'endless-page': (endless(http(status='404 x', content_length=None), bytes(2**16)), 'status 404'),
    'endless-move': (endless(http(status='302 x', content_length=None, location='/as-text'), bytes(2**16)), '.jpg'),
    'endless-head': (endless(b'HTTP/1.1 200 OK\r\n', b'a: b\r\n'*999), 'connection failed'),
    'huge-head': (raw(http(jpeg, x='a'*10**6)), 'connection failed'), 'nul': (raw(http(jpeg, x='\0')), 'connection failed'),
    # a pace, in the answers called slow
    'slow': (drip(http(content_length=10**5), b'\xff'), 'timed out: not finished with timeout=0.5'),
    'slow-head': (drip(b'HTTP/1.1 200 OK\r\na: ', b'b'), 'timed out'), 'slow-status': (drip(b'', b'H'), 'timed out'),
    'slow-chunks': (drip(chunked, b'1\r\na\r\n'), 'timed out'), 'slow-100': (drip(b'', b'HTTP/1.1 100 Continue\r\n\r\n', .001),
    'timed out'),
    'slow-silent': (silent, 'timed out'),
    # a connection
    'closed': (lambda conn: None, 'connection failed'), 'reset': (reset(b''), 'connection failed'),
    'reset-body': (reset(http(jpeg[:99], content_length=len(jpeg))), 'connection failed'),
    'garbage': (raw(bytes(range(256))), 'connection failed'), 'http0.9': (raw(jpeg), 'connection failed'),
    'http2': (raw(b'\0\0\x12\4\0\0\0\0\0' + bytes(18)), 'connection failed')}

def test_no_answer_escapes_or_hangs(tmp_path):
    assert len(ANSWERS) > 100
    with Server() as server:
        port = str(server.port).encode()
        server.answers = {f'/{k}': o if callable(o) else o.replace(b'{port}', port) for k, (o, _) in ANSWERS.items()}
        slow = [o for o in ANSWERS if o.startswith('slow')]
        late = fetched(tmp_path, [server.at(f'/{o}') for o in slow], timeout=.5)
        said = late | fetched(tmp_path, [server.at(f'/{o}') for o in ANSWERS if o not in slow], max_bytes=10**6)
    def is_right(res, why): return res.endswith(why) if why.startswith('.') else why in res
    assert {k: said[server.at(f'/{k}')] for k, (_, why) in ANSWERS.items() if not is_right(said[server.at(f'/{k}')], why)} == {}
    files = {o.name for o in (tmp_path/'shop'/'images').iterdir()}
    assert files == {*said.values()} & files
    assert sum(why.startswith('.') for _, why in ANSWERS.values()) == len(files)
    assert all(c.isprintable() for o in said.values() for c in o)
    assert server.asked['/a'] == 0 and not any('\r\ncookie:' in o.lower() for o in server.heads)
    once = [k for k in ANSWERS if k in ('html', 'cut-jpeg', 's404', 's403', 's201', 'bomb', 'large', 'later', 'no-gzip')]
    assert {k: server.asked[f'/{k}'] for k in once} == dict.fromkeys(once, 1)
    again = ('s429', 's500', 's503', 's520', 'slow', 'slow-silent', 'closed', 'reset', 'longer', 'past')
    assert {k: server.asked[f'/{k}'] for k in again} == dict.fromkeys(again, 2)
    assert read_table(tmp_path/'shop'/'fetched.csv').set_index('address')['etag'][server.at('/etag')] == ''

def test_the_first_picture_of_a_process_may_have_any_format(tmp_path):
    "Pillow loads some formats only when it meets them."
    code = 'import sys; from catalog_tagger.catalog.fetch import picture_suffix; print(picture_suffix(sys.stdin.buffer.read()))'
    assert subprocess.run([sys.executable, '-c', code], input=data('GIF'), capture_output=True).stdout == b'.gif\n'

def test_a_full_disk_ends_the_job(tmp_path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('catalog_tagger.catalog.fetch.atomic_path', full)
    with Server() as server, pytest.raises(OSError, match='No space left'): fetched(tmp_path, [server.at(f'/{i}') for i in range(50)])

def test_names_of_files_stay_in_their_folder(tmp_path):
    "Twins of case, names that systems reserve, and paths that lead elsewhere have names of their own."
    paths = ['/a.jpg', '/A.JPG', '/A.jpg?v=2', '/CON', '/con.jpg', '/nul.png', '/..', '/%2e%2e/%2e%2e/etc/passwd', '/%2e%2e%2fetc%2fpasswd',
             '/..%5c..%5cx.jpg', '/%00.jpg', '/a%00.jpg/../b', '/%0a.jpg', '/.hidden', '/dot.', '/-rf.jpg', '/~root', '/$HOME',
             '/%E2%80%AEgpj.exe',
             '/' + 'x'*5000, '/' + '%F0%9F%91%9F'*500, '/C:%5Cx.jpg', '/a;rm -rf.jpg', '/"\'`.jpg', '/=cmd.jpg', '/鞋.jpg', '/%ff%fe.jpg',
             '/?', '/??']
    with Server() as server: said = fetched(tmp_path, [server.at(o) for o in paths])
    images = tmp_path/'shop'/'images'
    names = [o.name for o in images.iterdir()]
    assert all((images/o).resolve().parent == images.resolve() for o in said.values())
    assert sorted(names) == sorted(said.values()) and len({o.lower() for o in names}) == len(said) == len(paths)
    assert all(len(o) < 80 and o.isascii() and o[0].isalnum() and o.count('.') == 1 for o in names)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['export.csv', 'shop']
    assert sorted(o.name for o in (tmp_path/'shop').iterdir()) == ['export.csv', 'fetched.csv', 'images', 'rejected.csv']

def test_waits_grow_and_heed_the_server(tmp_path):
    answers = {'/busy': http(status='503 x'), **{f'/{o}': http(status='429 x', retry_after=o) for o in ('7', '61')}}
    with Server(answers) as server, Fetcher(tmp_path, FetchSettings(allow_host=('localhost',), retries=3)) as fetcher:
        waits, fetcher.network.stopped.wait = [], lambda seconds: waits.append(seconds)
        for o in answers:
            with pytest.raises(AddressError): fetcher.fetch(server.at(o))
        assert server.asked == {'/busy': 4, '/7': 4, '/61': 1}
    assert all(.1*2**n <= o <= .5*2**n for n, o in enumerate(waits[:3])) and waits[3:] == [7, 7, 7]

def test_a_second_attempt_succeeds(tmp_path):
    "Each kind of failure that is worth another attempt."
    with Server() as server:
        for k, o in dict(busy=http(status='503 x'), closed=lambda conn: None, reset=reset(b''), silent=lambda conn: sleep(2),
                         cut=raw(http(jpeg[:50], content_length=len(jpeg)))).items():
            def first(conn, k=k, o=o):
                server.answers.pop(f'/{k}')
                conn.sendall(o) if isinstance(o, bytes) else o(conn)
            server.answers[f'/{k}'] = first
        n = len(server.answers); said = fetched(tmp_path, list(map(server.at, server.answers)), timeout=1, retries=5)
    assert len(said) == n and all(o.endswith('.jpg') for o in said.values()) and min(server.asked.values()) >= 2

def test_a_host_without_connection_is_not_asked_for_all(tmp_path):
    closed = socket.create_server(('127.0.0.1', 0)); port = closed.getsockname()[1]; closed.close()
    with Server() as server:
        said = fetched(tmp_path, [f'http://localhost:{port}/{i}' for i in range(200)] + [server.at('/a')], retries=0, per_host=1)
    reasons = Counter(o.split(':')[0] for o in said.values())
    assert reasons['connection failed'] == 10 and reasons['not asked'] == 190 and said[server.at('/a')].endswith('.jpg')

def test_few_of_a_host_and_few_in_all(tmp_path):
    "The servers count what they answer at the same time; the first five requests wait for each other, so five do come."
    now, most, lock, five, first = Counter(), Counter(), threading.Lock(), threading.Barrier(5), iter(range(5))
    def slow(name):
        def answer(conn):
            with lock:
                for o in (name, 'all'): now[o] += 1; most[o] = max(most[o], now[o])
                waits = next(first, None) is not None
            if waits: five.wait(60)
            with lock: now[name] -= 1; now['all'] -= 1
            conn.sendall(http(jpeg, connection='close'))
        return answer
    servers = [Server(default=slow(i)) for i in range(3)]
    said = fetched(tmp_path, [o.at(f'/{i}') for i in range(8) for o in servers], workers=5, per_host=2, retries=0)
    assert all(o.endswith('.jpg') for o in said.values()) and len(said) == 24
    assert all(most[i] <= 2 for i in range(3)) and most['all'] == 5

def test_all_together_are_bounded(tmp_path):
    with Server() as server:
        addresses = [server.at(f'/{i}') for i in range(40)]
        said = fetched(tmp_path, addresses, max_total=10*len(jpeg), per_host=1)
        assert sum(o.endswith('.jpg') for o in said.values()) == 9
        assert Counter(said.values())[f'not fetched: all pictures together reach max_total={10*len(jpeg)}'] == 31
        assert sum(server.asked.values()) == 10
        said = fetched(tmp_path, addresses, max_total=100*len(jpeg))       # and goes on with a larger bound
        assert all(o.endswith('.jpg') for o in said.values()) and sum(server.asked.values()) == 41

def test_a_bomb_needs_little_memory(tmp_path):
    pack = zlib.compressobj(wbits=31)
    many = pack.compress(bytes(2**28)) + pack.flush()
    with Server({f'/{i}': http(many, content_encoding='gzip') for i in range(8)}) as server:
        (code, held), (bomb_code, bomb_held) = [in_child(lambda: fetched(tmp_path, list(map(server.at, o)), max_bytes=10**6))
                                                for o in (['/a'], [f'/{i}' for i in range(8)])]
    assert (code, bomb_code) == (0, 0) and len(many) < 10**6 and bomb_held < held + 60_000_000

def test_no_proxy_of_the_environment_is_asked(tmp_path, monkeypatch):
    with Server() as proxy, Server() as server:
        for o in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.setenv(o, f'http://localhost:{proxy.port}')
        said = fetched(tmp_path, [server.at('/a')])
    assert not proxy.asked and said[server.at('/a')].endswith('.jpg')

# --- interrupted jobs

def command(*argv, **kw):
    return subprocess.Popen([sys.executable, '-m', 'catalog_tagger.apps.cli', *map(str, argv)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)

def fatal(server, when, sign):
    "The server, with the process `server.child` sent a signal in the middle of the answer to request number `when`."
    server.ready, server.child, fired = threading.Event(), None, threading.Lock()
    def answer(conn):
        if sum(server.asked.values()) >= when and fired.acquire(blocking=False):
            server.ready.wait(); conn.sendall(http(jpeg)[:-50]); os.kill(server.child.pid, sign)
        conn.sendall(http(jpeg, connection='close'))
    server.default = answer
    return server

@pytest.mark.parametrize('when', (1, 17, 60))
def test_a_killed_job_asks_for_nothing_twice_that_is_whole(tmp_path, when):
    images = tmp_path/'shop'/'images'
    with fatal(Server(), when, signal.SIGKILL) as server:
        source = table(tmp_path/'export.csv', [(server.at(f'/{i}.jpg'), 'red') for i in range(60)])
        argv = 'fetch', source, '--out', tmp_path/'shop', '--allow-host', 'localhost'
        server.child = command(*argv); server.ready.set()
        assert server.child.wait() == -signal.SIGKILL
        whole = {o.name for o in images.glob('*.jpg')}
        with pytest.raises(CatalogError, match='fetch was interrupted; call it again'): find_layout(tmp_path/'shop')
        with open(tmp_path/'shop'/'fetched.csv', 'a') as f: f.write(server.at('/59.jpg') + ',half-a-li')     # the kill of a machine
        images.mkdir(exist_ok=True); (images/'.x.jpg.0123456789ab.tmp').write_bytes(b'half')
        server.default = http(jpeg)
        again = command(*argv); out, err = again.communicate()
    assert again.returncode == 0 and (f'60 of 60' in out), err
    assert (f'{len(whole)} of them from before' in out) == bool(whole)
    assert len(whole) >= when - 7       # six of a host are asked at the same time
    assert {server.asked[f'/{i}.jpg'] for i in range(60) if file_stem(server.at(f'/{i}.jpg')) + '.jpg' in whole} <= {1}
    assert sorted(o.name for o in images.iterdir()) == sorted(read_table(tmp_path/'shop'/'fetched.csv')['file'])
    assert len(read_catalog(tmp_path/'shop').df) == 60

def test_a_stopped_job_says_how_to_go_on(tmp_path):
    with fatal(Server(), 20, signal.SIGINT) as server:
        source = table(tmp_path/'export.csv', [(server.at(f'/{i}.jpg'), 'red') for i in range(60)])
        heeds = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)    # a shell lets its background jobs ignore it
        server.child = command('fetch', source, '--out', tmp_path/'shop', '--allow-host', 'localhost', preexec_fn=heeds); server.ready.set()
        out, err = server.child.communicate()
    assert server.child.returncode == 130 and 'of 60 pictures are in' in err and 'goes on with the others' in err and 'Traceback' not in err

def test_what_is_not_whole_is_asked_again(tmp_path):
    with Server({'/bad': http(status='404 x')}) as server:
        addresses = [server.at(f'/{i}.jpg') for i in range(6)] + [server.at('/bad')]
        said = fetched(tmp_path, addresses)
        images, first = tmp_path/'shop'/'images', read_table(tmp_path/'shop'/'fetched.csv')
        name = [said[o] for o in addresses]
        (images/name[0]).unlink(); (images/name[1]).write_bytes(jpeg[:-1]); (images/name[2]).write_bytes(data(colour='blue'))
        (images/name[3]).rename(tmp_path/'x.jpg'); (images/name[3]).symlink_to(tmp_path/'x.jpg')
        assert fetched(tmp_path, addresses) == said
        assert server.asked == {'/0.jpg': 2, '/1.jpg': 2, '/2.jpg': 2, '/3.jpg': 2, '/4.jpg': 1, '/5.jpg': 1, '/bad': 2}
        assert not (images/name[3]).is_symlink() and (tmp_path/'x.jpg').read_bytes() == jpeg
        pd.testing.assert_frame_equal(read_table(tmp_path/'shop'/'fetched.csv'), first)

def test_a_forged_list_of_fetched_files_leads_nowhere(tmp_path):
    with Server() as server:
        addresses = [server.at('/a.jpg'), server.at('/b.jpg')]
        said = fetched(tmp_path, addresses)
        (tmp_path/'secret.jpg').write_bytes(jpeg); f = tmp_path/'shop'/'fetched.csv'
        f.write_bytes(f.read_bytes() + b'http://[::1,a.jpg,9,x,\n' + b'http://a/,a.jpg,\xc2\xb2,x,\n' + bytes(200_000))
        assert fetched(tmp_path, addresses) == said and set(server.asked.values()) == {1}
        for name in ('../../secret.jpg', '../secret.jpg', str(tmp_path/'secret.jpg'), said[addresses[1]], ''):
            rows = read_table(f); rows.loc[0, 'file'] = name; rows.to_csv(f, index=False); before = server.asked['/a.jpg']
            assert fetched(tmp_path, addresses) == said and server.asked['/a.jpg'] == before + 1

def test_without_resume_only_what_has_changed_is_sent(tmp_path):
    with Server() as server:
        def answer(path, etag, colour):
            def send(conn):
                same = f'if-none-match: {etag}\r\n' in server.heads[-1].lower()
                conn.sendall(http(status='304 Not Modified', connection='close') if same
                             else http(data(colour=colour), etag=etag, connection='close'))
            server.answers[path] = send
        for o in ('/a', '/b'): answer(o, '"1"', 'red')
        one = fetched(tmp_path, [server.at('/a'), server.at('/b')], per_host=1)
        answer('/b', 'w/"2"', 'blue')
        assert fetched(tmp_path, [server.at('/a'), server.at('/b')], per_host=1, resume=False) == one
        assert server.asked == {'/a': 2, '/b': 2}
    images = tmp_path/'shop'/'images'
    assert (images/one[server.at('/a')]).read_bytes() == data() and (images/one[server.at('/b')]).read_bytes() == data(colour='blue')

# --- tables

def test_an_address_of_many_rows_is_asked_once(tmp_path):
    with Server({'/b.jpg': http(data(colour='blue'))}) as server:
        one = server.at('/a.jpg'); spelt = [one, one + '#top', one.replace('http', 'HTTP'), one.replace('local', 'LOCAL')]
        rows = [(o, 'red') for o in spelt*5] + [(server.at('/b.jpg'), 'blue'), (server.at('/c.jpg'), 'red')]
        res = fetch_catalog(table(tmp_path/'t.csv', rows), tmp_path/'shop', allow_host=['localhost'])
    assert server.asked == {'/a.jpg': 1, '/b.jpg': 1, '/c.jpg': 1} and len(res.fetched) == 3
    copy = pd.read_csv(res.table)
    assert copy['image'].nunique() == 3 and copy['image'][:20].nunique() == 1
    assert any('1 addresses are named more than once' in o and '(20 times)' in o for o in res.notes)
    assert any('2 addresses have the same picture as another one' in o for o in res.notes)

TABLES = {   # Bytes of a table, with {a}, {b}, {x} for addresses (x is missing), the options, and the cells of pictures in its copy
    't.csv': ('sku,image,note\n007,{a},"x, ""y"""\n008,"{a}, {b}",\n,{x},é\n', {}, ['A', 'A, B', '{x}']),
    'semi.csv': ('sku;image;price\n0012;{a}|{b};1,10\n0013;{b} {a};2,00\n', {}, ['A, B', 'B, A']),
    'sep.csv': ('sep=;\nsku;image\n1;{a}\n', {}, ['A']), 'odd.csv': ('sep=~\nsku~image\n1~{a}\n', {}, ['A']),
    'tab.tsv': ('id\tImage\ttitle\n1\t{a},{b}\t"two\nlines\r\nhere"\n', {}, ['A, B']),
    'bom.csv': ('image,größe\n{a},42\n', {}, ['A']), 'wide.csv': ('image,größe\n{a},42\n', {}, ['A']),
    'win.csv': ('image,größe\n{a},42\n', dict(encoding='cp1252'), ['A']),
    'crlf.csv': ('image,text\r\n{a},"a\r\nb"\r\n', {}, ['A']),
    'listed.csv': ('image;n\n["{a}", "{b}"];1\n[\'{b}\'];2\n', {}, ['A, B', 'B']),
    'torn.csv': ('image,tags\n{a},red\n{a}\n{b},red,x\n{b},red,,\n\n,\n{b},blue\n', {}, ['A', '{a}', '{b}', 'B', '', 'B']),
    'mixed.csv': ('image,tags\n{a},red\nlocal.jpg,red\n"own.jpg, {b}",red\n,red\n', {}, ['A', 'local.jpg', 'own.jpg, B', '']),
    'part.csv': ('image,tags\n"{a}, {x}",red\n"{x} {x}",red\n', {}, ['A', '{x} {x}']),
    'two.csv': ('main,more\n{a},"{b},{a}"\n', dict(image_column=['main', 'more']), ['A', 'B, A']),
    'named.csv': ('url,image_url\n{b},{a}\n', dict(image_column=['image_url']), ['A']), 'more.csv': ('image,link\n{a},{b}\n', {}, ['A']),
    'empty-first.csv': ('image,photo\n,{a}\n', {}, ['A']),
    'o.json': ('[{{"id": 7, "price": 1.10, "big": 12345678901234567890, "ok": true, "none": null, "image": "{a}", "t": "é"}},\n'
               ' {{"image": ["{a}", "{b}", "{x}"]}}, {{"id": 8}}]', {}, ['A', ['A', 'B'], None]),
    'l.jsonl': ('{{"image": "{a}"}}\n{{"image": "{b}", "tags": ["\\ud83d"]}}\n', {}, ['A', 'B'])}

ENCODINGS = {'bom.csv': 'utf-8-sig', 'wide.csv': 'utf-16', 'win.csv': 'cp1252'}

@pytest.mark.parametrize('name', TABLES)
def test_a_copy_differs_in_its_pictures_alone(tmp_path, name):
    text, options, cells = TABLES[name]
    with Server({'/x': http(status='404 x'), '/b': http(data('PNG'))}) as server:
        addresses = {o: server.at(f'/{o}') for o in 'abx'}
        def fill(o): return o.format(**addresses)
        (tmp_path/name).write_bytes(fill(text).encode(ENCODINGS.get(name, 'utf-8')))
        res = fetch_catalog(tmp_path/name, tmp_path/'shop', allow_host=['localhost'], **options)
    assert res.table == tmp_path/'shop'/name and set(server.asked.values()) <= {1}
    unread = {'named.csv': 'url', 'more.csv': 'link', 'two.csv': None}.get(name)
    assert [o for o in res.notes if o.startswith('not fetched')] == [
        f'not fetched: the addresses in {unread}; if they are pictures, name all columns with image_column=' for _ in [0] if unread]
    files = {'A': file_stem(addresses['a']) + '.jpg', 'B': file_stem(addresses['b']) + '.png'}
    def named(o):
        if isinstance(o, str): return ', '.join(named(o.split(', ')))
        return o and [files.get(p, fill(p)) for p in o]
    if name.endswith(('.json', '.jsonl')): return check_json_copy(tmp_path/name, res.table, list(map(named, cells)))
    old, new = csv_rows(tmp_path/name, encoding=options.get('encoding')), [*csv_rows(res.table)]
    columns = [i for i, o in enumerate(new[0]) if o in options.get('image_column', ('image', 'Image', 'photo'))]
    changed = [row[i] for row in new[1:] for i in columns if i < len(row)]
    assert [o for o in changed if o] == [named(o) for o in cells if o]
    def others(row): return [o for i, o in enumerate(row) if i not in columns]
    assert list(map(others, old)) == list(map(others, new))

def check_json_copy(source, copy, cells):
    "All values but those of pictures are equal; a number that Python would write in another way is text."
    def load(f): return json.loads(f.read_text('utf-8') if f.suffix == '.json' else f'[{",".join(f.read_text("utf-8").splitlines())}]')
    old, new = load(source), load(copy)
    assert [o.get('image') for o in new] == cells
    number = {'price': 1.1}
    for a, b in zip(old, new, strict=True): assert a | {'image': 0} == b | {'image': 0} | (number if b.get('price') == '1.10' else {})
    pd.testing.assert_frame_equal(*(read_rows(o)[0].drop(columns='source.image') for o in (source, copy)))

def test_every_row_without_its_pictures_is_told(tmp_path):
    rows = ['image,tags', '{a},red', '{x},red', '"{x}, {a}",red', '{a}', 'local.jpg,red', ',red', '"{x}, {y}",red']
    with Server({'/x': http(status='404 x')}) as server:
        addresses = dict(a=server.at('/a'), x=server.at('/x'), y='http://10.0.0.1/y')
        (tmp_path/'t.csv').write_text('\n'.join(rows).format(**addresses) + '\n')
        res = fetch_catalog(tmp_path/'t.csv', tmp_path/'shop', allow_host=['localhost'])
    gone = addresses['x'], 'status 404 Not Found'
    assert [(o.row, o.address, o.reason.split(',')[0]) for o in res.rejected.itertuples()] == [
        (1, *gone), (2, *gone), (3, '', '1 cells under 2 columns'), (4, 'local.jpg', "'local.jpg' is not an address of http or https"),
        (6, *gone), (6, addresses['y'], '10.0.0.1')]
    pd.testing.assert_frame_equal(read_table(tmp_path/'shop'/'rejected.csv').astype({'row': int}), res.rejected)
    assert '1 of 7 rows name no picture' in res.notes
    catalog = read_catalog(tmp_path/'shop')
    assert catalog.df['row'].tolist() == [0, 4] and not any('fetched.csv' in o or 'rejected.csv' in o for o in catalog.notes)
    reasons = dict(catalog.rejected[['row', 'reason']].values)
    assert reasons[1] == 'not fetched: status 404 Not Found' and '1 cells under 2 columns' in reasons[3]

def test_a_fetched_folder_is_a_catalog(tmp_path):
    with Server() as server:
        server.answers = {f'/{i}.jpg': http(data(colour=(i*4, 255 - i*4, 99))) for i in range(60)}
        rows = [(f'{i//2:03}', server.at(f'/{i}.jpg'), ('red', 'blue')[i % 4 > 1]) for i in range(60)]
        res = fetch_catalog(table(tmp_path/'export.csv', rows, ['sku', 'image', 'tags']), tmp_path/'shop', allow_host=['localhost'])
    catalog = read_audited(RunConfig(str(tmp_path/'shop'), str(tmp_path/'run')))
    assert len(catalog.df) == 60 and len(catalog.rejected) == 0 and catalog.df['product'].tolist() == [o for o, *_ in rows]

def test_each_error_of_the_table_names_the_way_out(tmp_path):
    def failing(source, out='out', **kw):
        with pytest.raises(CatalogError) as e: fetch_catalog(tmp_path/source, tmp_path/out, **kw)
        return str(e.value)
    table(tmp_path/'names.csv', [('1.jpg', 'red')]); table(tmp_path/'links.csv', [('http://a/1', 'x')], ['picture_url', 'tags'])
    assert 'names no picture by an address' in failing('names.csv')
    assert 'there are addresses in picture_url: name those of pictures with image_column=' in failing('links.csv')
    assert "has no column 'pictures'" in failing('links.csv', image_column=['pictures'])
    assert 'its column tags has none' in failing('links.csv', image_column=['tags'])
    assert 'does not exist' in failing('nowhere.csv')
    assert 'expected 0 to 10' in failing('links.csv', retries=11) and 'expected' in failing('links.csv', max_total=0)
    assert "allow_host='http://x'" in failing('links.csv', image_column=['picture_url'], allow_host=['http://x'])
    (tmp_path/'one').mkdir()
    for o in 'ab': table(tmp_path/'one'/f'{o}.csv', [('http://a/1', 'x')])
    assert 'has 2 tables with addresses of pictures (a.csv, b.csv)' in failing('one')
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'thesis.txt').touch()
    assert 'contains files but no fetched.csv' in failing('one/a.csv', 'full')
    assert 'contains files but no fetched.csv' in failing('one/a.csv', 'one')
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'fetched.csv').touch(); (tmp_path/'mine'/'b.csv').touch()
    assert 'contains b.csv, so it is not that of a.csv' in failing('one/a.csv', 'mine')
    (tmp_path/'fetched.csv').write_text('image,tags\nhttp://a/1,x\n')
    assert 'rename it' in failing('fetched.csv')
    with Server() as server:
        (tmp_path/'shop').mkdir(); table(tmp_path/'shop'/'colours.csv', [('red', 'x')])
        table(tmp_path/'shop'/'e.csv', [(server.at('/a'), 'x'), ('http://10.0.0.1/', 'x')])
        notes = fetch_catalog(tmp_path/'shop', tmp_path/'done', allow_host=['localhost'], encoding='utf-8').notes
    assert {'not copied: colours.csv, beside e.csv', 'e.csv is written in UTF-8, so it is read without encoding=utf-8'} <= {*notes}
    assert 'is the folder of e.csv itself' in failing('done/e.csv', 'done')

def test_an_address_that_is_no_text_is_told(tmp_path):
    with Server() as server:
        cells = server.at('/a'), 'http://localhost/\ud83d.jpg', [7, {'src': 'x'}]
        (tmp_path/'t.json').write_text(json.dumps([dict(image=o) for o in cells]))
        res = fetch_catalog(tmp_path/'t.json', tmp_path/'shop', allow_host=['localhost'])
    assert res.rejected['address'].tolist() == ['http://localhost/\\ud83d.jpg', '7', "{'src': 'x'}"] and len(read_rows(res.table)[0]) == 3

# --- the command

def test_the_command(tmp_path):
    with Server({'/x.jpg': http(status='404 x')}) as server, Server() as other:
        server.answers |= {f'/{i}.jpg': http(data(colour=(i*6, 255 - i*6, 99))) for i in range(40)}
        rows = [(server.at(f'/{i}.jpg'), ('red', 'blue')[i % 2]) for i in range(40)]
        table(tmp_path/'export.csv', rows + [(server.at('/x.jpg'), 'red'), (other.at('/a.jpg', '127.0.0.1'), 'red')])
        def call(*argv):
            o = command(*argv, cwd=tmp_path)
            return *o.communicate(), o.returncode
        out, err, code = call('fetch', 'export.csv', '--out', 'shop')
        assert code == 2 and '127.0.0.1, which is loopback: it is not asked without --allow-host' in err and not server.asked
        out, err, code = call('fetch', 'export.csv', '--out', 'shop', '--allow-host', f'localhost:{server.port}', '--allow-host',
                              '127.0.0.1')
    assert code == 0 and err == ''
    assert '41 of 42 addresses in image have their picture' in out and '1 pictures could not be fetched' in out
    assert f'row 40, {server.at("/x.jpg")}: status 404 Not Found' in out and 'next: catalog_tagger check shop' in out
    catalog = read_catalog(tmp_path/'shop')
    assert len(catalog.df) == 41 and catalog.rejected['reason'].tolist() == ['not fetched: status 404 Not Found']

def test_a_table_that_is_not_understood_is_to_be_fetched_first(tmp_path):
    table(tmp_path/'export.csv', [('7', 'https://shop.example/7.jpg?v=1', 'red')], ['sku', 'pic', 'colour'])
    for o in (tmp_path, tmp_path/'export.csv'):
        with pytest.raises(CatalogError, match="column 'pic'.*catalog_tagger fetch .*export.csv --out shop"): find_layout(o)

def test_what_is_missing_is_said_in_one_line(tmp_path):
    code = ('import sys; sys.modules["httpx"] = None\nfrom catalog_tagger.apps.cli import main\n'
            'sys.exit(main(["fetch", "t.csv", "--out", "shop"]))')
    r = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert r.returncode == 2 and r.stderr == 'catalog_tagger: fetching pictures needs httpx: pip install "catalog_tagger[fetch]"\n'
