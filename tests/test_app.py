"The web page: what it answers, what it refuses, and a person at it in a browser."
import asyncio, csv, http.client, json, os, re, signal, socket, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import pandas as pd, pytest
from PIL import Image

pytest.importorskip('fasthtml', reason='needs FastHTML: pip install "catalog_tagger[app]"')
from starlette.testclient import TestClient
from catalog_tagger.apps import web as web_module
from catalog_tagger.apps.web import _address, _by_group, _flag, make_app
from catalog_tagger.apps.cli import main
from catalog_tagger.testing.browser import serving
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.labels import LabelSpace
from catalog_tagger.serve.modes import MODES, Mode, all_tags, f1_cut
from catalog_tagger.serve.tagger import Tagger

BYTES = {'content-type': 'application/octet-stream'}

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A run on drawn products, and its pictures."
    from catalog_tagger.core.config import RunConfig
    from catalog_tagger.runs.train import train_run
    p = tmp_path_factory.mktemp('my shop')
    demo_styles(p/'shop', n=70)
    train_run(RunConfig(str(p/'shop'), str(p/'run'), size=32, bs=16, freeze_epochs=2, epochs=0), say=lambda o: None)
    return p

@pytest.fixture(scope='module')
def tagger(place): return Tagger.load(place/'run'/'tagger')

@pytest.fixture(scope='module')
def pictures(place): return sorted((place/'shop'/'images').iterdir())

def client(tagger, **kwargs): return TestClient(make_app(tagger, **kwargs), base_url='http://127.0.0.1', headers=BYTES)

@pytest.fixture(scope='module')
def web(tagger): return client(tagger, name='run')

class Parts(HTMLParser):
    "Tags and attributes of a piece of HTML."
    def __init__(self, html): super().__init__(); self.names, self.attrs, self.rows = set(), set(), None; self.feed(html)
    def handle_starttag(self, tag, attrs):
        self.names.add(tag); self.attrs |= {k for k, _ in attrs}
        if tag == 'article': self.rows = json.loads(dict(attrs)['data-rows'])

def tags_of(response): assert response.status_code == 200, response.text; return [(t, s) for _, t, s, _, _ in Parts(response.text).rows]
def rounded(tags): return [(t, pytest.approx(s, abs=2e-4)) for t, s in tags]

# What it answers

@pytest.mark.parametrize('asked, kwargs',
                         [('', {}), ('?mode=high_precision', dict(mode='high_precision')), ('?mode=top_k&k=2', dict(mode='top_k', k=2)),
                          ('?mode=balanced&k=', dict(mode='balanced'))])
def test_tags_are_those_of_the_tagger(web, tagger, pictures, asked, kwargs):
    for o in pictures[:3]:
        assert sorted(tags_of(web.post(f'/tag{asked}', content=o.read_bytes()))) == sorted(rounded(tagger.predict(o, **kwargs)))

def test_flags_are_those_of_the_queue(web, tagger, place, pictures):
    from catalog_tagger.runs.evaluate import review_pictures
    queue = review_pictures(tagger, place/'shop'/'images').set_index('image')
    for o in pictures[:12]:
        kind = Parts(web.post('/tag', content=o.read_bytes()).text).rows[0][4]
        assert kind == ('fine' if str(o) not in queue.index else 'outside' if queue['outside'][str(o)] else 'look')

def test_without_a_decision(tagger, pictures):
    web = client(replace(tagger, decision=None))
    assert len(tags_of(web.post('/tag', content=pictures[0].read_bytes()))) == 3
    page = web.get('/').text
    assert 'name="mode"' not in page and 'has no decision thresholds' in page

def test_modes_are_those_of_the_model(tagger, pictures, monkeypatch):
    "The page lists the modes that the model was fitted for, a new one after it was fitted again; another is refused."
    monkeypatch.setitem(MODES, 'careful', Mode('one wrong in a hundred', all_tags(f1_cut)))
    d = tagger.decision; new = replace(d, thresholds=d.thresholds | dict(careful=[.99]*len(d.support)), limits=d.limits | dict(careful={}))
    assert 'careful' not in client(tagger).get('/').text
    assert client(tagger).post('/tag?mode=careful', content=pictures[0].read_bytes()).status_code != 200
    web = client(replace(tagger, decision=new))
    assert re.findall('value="(\\w+)"[^>]*>([^<]*: [^<]+)<', web.get('/').text)[-1] == ('careful', 'careful: one wrong in a hundred')
    assert sorted(tags_of(web.post('/tag?mode=careful', content=pictures[0].read_bytes()))) == sorted(
        rounded(replace(tagger, decision=new).predict(pictures[0], mode='careful')))

def test_tags_by_group():
    space = LabelSpace(['Tops', 'Red', 'new'], {'articleType': ['Tops'], 'baseColour': ['Red']}, {}, {})
    tags = [('Tops', .9), ('unsure:baseColour', .2), ('new', .6)]
    assert _by_group(tags, space) == {'articleType': tags[:1], 'baseColour': tags[1:2], '': tags[2:]}

@pytest.mark.parametrize('review, says', [
    (None, ('fine', 'Can be published without review.')),
    (dict(outside=False, ask='Tops', score=.52, instead='Tshirts'),
     ('look', 'Needs review, first Tops: its score is 0.52, the next best label is Tshirts.')),
    (dict(outside=False, ask='', score=0., instead=''), ('look', 'Needs review: there is no answer.')),
    (dict(outside=True, ask='Tops', score=.9, instead=''),
     ('outside', 'Out of distribution, unlike the training pictures: check every tag.'))])
def test_what_a_person_should_do(review, says): assert _flag(review) == says

def test_what_cannot_be_used_is_told(web, pictures):
    photo = pictures[0].read_bytes(); big = BytesIO(); Image.new('1', (9000, 9000)).save(big, 'PNG')
    for path, content, says in [('/tag', b'%PDF-1.7', 'not an image'), ('/tag', b'', 'empty file'),
                                ('/tag', photo[:len(photo)//2], 'truncated'), ('/tag', big.getvalue(), 'too large: 9000x9000 pixels'),
                                ('/tag?k=-1', photo, 'k=-1, expected 1 or more'),
                                ('/tag?k=many', photo, "k='many', expected a number"), ('/tag?k=' + '9'*5000, photo, 'expected a number'),
                                ('/tag?mode=bold', photo, "mode='bold', expected one of"), ('/similar', photo, '--index'),
                                ('/csv?kind=tags', b'[[1]', 'JSON'), ('/csv?kind=tags', b'[[1]]', 'expected rows of 6 cells')]:
        r = web.post(path, content=content)
        assert r.status_code == 400 and says in r.text and '\n' not in r.text and r.headers['content-type'].startswith('text/plain')
    assert web.post('/tag', content=photo).status_code == 200

def test_two_people_with_a_hundred_pictures_each(tagger, pictures):
    web = client(tagger); alone = {o: sorted(tags_of(web.post('/tag', content=o.read_bytes()))) for o in pictures[:20]}
    with ThreadPoolExecutor(4) as pool:   # as two pages do, two at a time
        for o, r in pool.map(lambda o: (o, web.post('/tag', content=o.read_bytes())), [*alone]*10):
            assert sorted(tags_of(r)) == rounded(alone[o])

def test_heat(tagger, pictures):
    pytest.importorskip('captum', reason='needs captum: pip install "catalog_tagger[interpret]"')
    pytest.importorskip('catalog_tagger.report.interpret')
    web = client(tagger); r = web.post('/heat', params=dict(tag=tagger.space.vocab[0]), content=pictures[0].read_bytes())
    assert r.status_code == 200 and Image.open(BytesIO(r.content)).size == Image.open(pictures[0]).size
    assert 'is not a label' in web.post('/heat?tag=Sofas', content=pictures[0].read_bytes()).text

# What it refuses

@pytest.mark.parametrize('headers, status', [(dict(host='evil.example'), 400), (dict(host='127.0.0.1.evil.example'), 400),
    (dict(host=''), 400), (dict(host='[x'), 400),
    (dict(host='localhost:80'), 200), (dict(host='[::1]:80'), 200), (dict(host='192.168.1.7'), 200),
    (dict(origin='http://127.0.0.1'), 200), (dict(origin='http://evil.example'), 403), (dict(origin='null'), 403),
    (dict(origin='http://127.0.0.1:9999'), 403)])
def test_names_and_origins(web, pictures, headers, status):
    assert web.get('/', headers=headers).status_code == status
    assert web.post('/tag', headers=headers, content=pictures[0].read_bytes()).status_code == status

def test_only_bytes_are_taken(web, pictures):
    r = web.post('/tag', files={'file': pictures[0].read_bytes()}, headers={'content-type': 'multipart/form-data; boundary=x'})
    assert r.status_code == 415 and 'application/octet-stream' in r.text
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'application/json'):
        assert web.post('/csv?kind=tags', content=b'[]', headers={'content-type': kind}).status_code == 415
    assert web.options('/tag', headers={'origin': 'http://evil.example', 'access-control-request-method': 'POST'}).status_code == 403

def test_too_much_is_not_read(web, pictures):
    read = []
    def endless():
        for i in range(50): read.append(i); yield b'x'*2**20
    for content in (endless(), b'x'*(50 << 20)):
        r = web.post('/tag', content=content)
        assert r.status_code == 413 and r.text == 'too large: the limit is 32 MB'
    assert tags_of(web.post('/tag', content=pictures[0].read_bytes()))

def upload(app, parts, wait, **headers):
    "What `app` answers an upload whose `parts` come `wait` seconds apart, and after which nothing comes any more."
    said, parts = [], [*parts]
    async def receive():
        await asyncio.sleep(wait if parts else 60)
        return dict(type='http.request', body=parts.pop(0), more_body=True)
    async def send(message): said.append(message)
    head = dict(host='localhost', **{'content-type': 'application/octet-stream'}) | headers
    scope = dict(type='http', method='POST', path='/tag', raw_path=b'/tag', query_string=b'', scheme='http', http_version='1.1',
                 root_path='', server=('localhost', 80),
                 client=('127.0.0.1', 1), headers=[(k.encode(), v.encode()) for k, v in head.items()])
    asyncio.run(app(scope, receive, send))
    return said[0]['status'], b''.join(o.get('body', b'') for o in said).decode()

@pytest.mark.parametrize('parts, wait', [([], 0), ([b'x']*9, .2), ([b'x'*5000]*40, .01)], ids=['nothing', 'byte by byte', 'without an end'])
def test_an_upload_has_a_deadline(tagger, monkeypatch, parts, wait):
    monkeypatch.setattr(web_module, '_FIRST_SECONDS', .5); monkeypatch.setattr(web_module, 'MOST_SECONDS', 1)
    status, text = upload(make_app(tagger), parts, wait)
    assert status == 408 and text == 'too slow: an upload must have 10,000 bytes per second, and end within 300 seconds'

def test_an_upload_ends_with_the_server(tagger):
    app = make_app(tagger); app.state.stopping = lambda: True
    assert upload(app, [], 0) == (503, 'the page is being stopped')

@pytest.mark.parametrize('path',
                         ['/../../etc/passwd', '/..%2f..%2fetc%2fpasswd', '/thumb/..%2f..%2fetc%2fpasswd', '/thumb/-1', '/thumb/4',
                          '/thumb/0x1', '/app.py', '/.sesskey', '/static/app.js', '//etc/passwd'])
def test_no_file_by_name(web, tagger, pictures, path):
    index = SimpleNamespace(table=pd.DataFrame({'image': [str(o) for o in pictures[:4]]}))
    for o in (web, client(tagger, index=index)):
        r = o.get(path)
        assert r.status_code == 404 and 'root:' not in r.text

def test_pages_of_others_may_not_show_it(web):
    for path in ('/', '/app.js', '/app.css', '/gone'):
        h = web.get(path).headers
        assert "default-src 'none'" in h['content-security-policy']
        assert "frame-ancestors 'none'" in h['content-security-policy']
        assert h['cross-origin-resource-policy'] == 'same-origin' and h['x-content-type-options'] == 'nosniff'
        assert 'set-cookie' not in h and 'access-control-allow-origin' not in h

def test_nothing_is_left_on_the_disk(tagger, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    web = client(tagger)
    for content in (pictures[0].read_bytes(), b'x'*(40 << 20)): web.post('/tag', content=content)
    assert os.listdir(tmp_path) == []

# What it shows

def test_everything_from_data_is_text(tagger, pictures):
    labels = ['<script>alert(1)</script>', '" autofocus onfocus="alert(2)', "' onclick='alert(3)", '&lt;img src=x onerror=alert(4)&gt;',
              '</template></main><img src=x>']
    n = len(tagger.space.vocab); vocab = [*labels, *(f'label {i}' for i in range(n - len(labels)))]
    web = client(replace(tagger, space=LabelSpace(vocab, {'<i>': labels[:2]}, {}, {}), decision=None), name='<u>run</u>')
    page, card = Parts(web.get('/').text), Parts(web.post(f'/tag?k={n}', content=pictures[0].read_bytes()).text)
    assert not (page.names | card.names) & {'i', 'u', 'b'} and 'script' not in card.names
    assert not (page.attrs | card.attrs) & {'onfocus', 'onclick', 'onerror', 'autofocus'}
    assert {t for _, t, *_ in card.rows} >= set(labels[2:])

def test_similar_products(tagger, pictures, place):
    (place/'secret.txt').write_text('secret')
    table = pd.DataFrame({'image': [str(pictures[0]), str(pictures[1]), str(place/'secret.txt'), str(place/'gone.jpg')],
                          'labels': [['<b>Tops</b>'], [], [], []]})
    web = client(tagger, index=SimpleNamespace(table=table, search=lambda data, k: table[:2].assign(score=[.9, .8])))
    html = web.post('/similar', content=pictures[0].read_bytes()).text
    assert re.findall(r'/thumb/\d+', html) == ['/thumb/0', '/thumb/1'] and 'b' not in Parts(html).names
    r = web.get('/thumb/0')
    assert r.headers['content-type'] == 'image/jpeg' and Image.open(BytesIO(r.content)).format == 'JPEG'
    assert r.content != pictures[0].read_bytes()
    assert 'not an image' in web.get('/thumb/2').text and 'missing' in web.get('/thumb/3').text

def test_cells_are_no_formulas(web):
    rows = [['=cmd|x!A1.jpg', 1, '@SUM(1)', .5, '', 'look'], ['Größe, "L"\n.jpg', 1, '-50%', -.5, '', ''],
            ['c.jpg', None, 'T-shirt', None, '+1', '']]
    r = web.post('/csv?kind=tags', content=json.dumps(rows).encode())
    got = list(csv.reader(StringIO(r.content.decode('utf-8-sig'), newline='')))
    assert got[0] == ['image', 'rank', 'tag', 'score', 'reason', 'review']
    assert got[1:] == [["'=cmd|x!A1.jpg", '1', "'@SUM(1)", '0.5', '', 'look'], ['Größe, "L"\n.jpg', '1', "'-50%", '-0.5', '', ''],
                       ['c.jpg', '', 'T-shirt', '', "'+1", '']]

# The command

def test_an_address_of_ip_6_has_brackets(): assert [_address('::1', 80), _address('127.0.0.1', 80)] == ['[::1]:80', '127.0.0.1:80']

def start(place, *argv):
    "The command in a process of its own, and the address that it printed."
    p = subprocess.Popen([sys.executable, '-m', 'catalog_tagger.apps.cli', 'app', 'run', '--port', '0', *argv], cwd=place, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    line = p.stdout.readline()
    if not line: raise AssertionError(p.communicate()[1])
    return p, re.match(r'(http://127\.0\.0\.1:\d+/) shows the page; press Ctrl-C to stop\n', line)[1]

def stop(p):
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    return p.returncode, out, err

def test_the_command_serves_and_ends(place, pictures, capsys):
    p, url = start(place); c = http.client.HTTPConnection('127.0.0.1', int(re.search(r':(\d+)', url)[1]), timeout=120)
    try:
        c.request('POST', '/tag', pictures[0].read_bytes(), BYTES); assert c.getresponse().read().startswith(b'<article')
        c.close(); c.request('POST', '/tag', b'x'*(50 << 20), BYTES); r = c.getresponse()
        assert (r.status, r.read()) == (413, b'too large: the limit is 32 MB')
        # and leaves
        with socket.create_connection((c.host, c.port)) as s:
            s.sendall(b'POST /tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: '
                      b'99999\r\n\r\nhalf')
        assert main(['app', str(place/'run'), '--port', str(c.port)]) == 2
        err = capsys.readouterr().err; assert f'cannot listen on 127.0.0.1:{c.port}' in err and err.count('\n') == 1
        c.close(); c.request('GET', '/'); assert c.getresponse().status == 200
    finally: ended = stop(p)
    assert ended == (0, '', '') and '.sesskey' not in os.listdir(place)

@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no SIGTERM')
def test_it_ends_while_something_is_uploaded(place):
    p, url = start(place)
    with socket.create_connection(('127.0.0.1', int(re.search(r':(\d+)', url)[1]))) as s:
        s.sendall(b'POST /tag HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\nContent-Length: 99999\r\n\r\nhalf')
        sleep(.5); p.send_signal(signal.SIGTERM)
        out, err = p.communicate(timeout=60)
        assert b'503' in s.recv(999).splitlines()[0]
    assert (out, err) == ('', '') and p.returncode == -signal.SIGTERM

@pytest.mark.parametrize('argv, says',
                         [(['gone'], 'gone cannot be loaded: it is not a folder'), (['run', '--index', 'gone'], 'gone'),
                          (['run', '--port', '99999'], 'cannot listen on 127.0.0.1:99999'),
                          (['run', '--host', '203.0.113.1'], 'cannot listen on 203.0.113.1:8000')])
def test_a_wrong_call_is_one_line(place, argv, says, capsys, monkeypatch):
    if '--index' in argv: pytest.importorskip('catalog_tagger.search.index')
    monkeypatch.chdir(place)
    assert main(['app', *argv]) == 2
    err = capsys.readouterr().err; assert says in err and err.count('\n') == 1

# A person at it

@pytest.fixture(scope='module')
def served(tagger):
    with serving(make_app(tagger, name='run')) as url: yield url

def drop(page, files):
    "Choose files and wait for the answers."
    page.set_input_files('#pictures', files)
    page.wait_for_selector('.card:not(.waiting)'); page.wait_for_selector('.waiting', state='detached', timeout=60_000)

def told(page): return page.inner_text('#status')

def saved(page, button):
    "The rows of the table that a button downloads."
    with page.expect_download() as d: page.get_by_role('button', name=button).click()
    return pd.read_csv(d.value.path(), keep_default_na=False, dtype=str)

def test_a_person_tags_corrects_and_saves(page, served, pictures, tagger):
    elsewhere = []; page.on('request', lambda o: o.url.startswith((served, 'data:', 'blob:')) or elsewhere.append(o.url))
    page.goto(served); assert page.title() == 'Tags by run' and page.locator('#tools').is_hidden()
    drop(page, pictures[:3]); assert told(page).startswith('3 of 3 pictures')
    first = page.locator('.card').first
    assert first.locator('h2').inner_text() == pictures[0].name
    tags = saved(page, 'Download tags'); want = dict(tagger.predict(pictures[0], mode='balanced'))
    assert list(tags) == ['image', 'rank', 'tag', 'score', 'reason', 'review'] and set(tags['image']) == {o.name for o in pictures[:3]}
    assert {o.tag: pytest.approx(float(o.score), abs=2e-4) for o in tags[tags['image'] == pictures[0].name].itertuples()} == want
    group = max(tagger.space.exclusive, key=lambda g: max(len(tagger.space.lineage(l)) for l in tagger.space.exclusive[g]))
    said = first.locator(f'[data-group="{group}"]').get_attribute('data-predicted')
    other = next(l for l in tagger.space.exclusive[group] if tagger.space.parents[l] != tagger.space.parents[said])
    first.get_by_text('Correct', exact=True).click(); first.get_by_label(group).fill(other); first.get_by_label(group).press('Tab')
    rows = saved(page, 'Download corrections').values.tolist()
    # the parent goes along
    assert [pictures[0].name, group, said, other] in [[a, b, c, e] for a, b, c, _, e in rows]
    assert tagger.space.parents[other] in {o[4] for o in rows}
    assert 'Corrected' in first.inner_text() and f'{len(rows)} correction' in told(page) and elsewhere == []

def test_a_child_that_no_longer_fits_is_told(page, served, pictures, tagger):
    page.goto(served); drop(page, pictures[:1]); space = tagger.space
    child = max(space.exclusive, key=lambda g: max(len(space.lineage(l)) for l in space.exclusive[g]))
    said = page.locator(f'[data-group="{child}"]').get_attribute('data-predicted')
    parent = next(g for g, o in space.exclusive.items() if space.parents[said] in o)
    other = next(l for l in space.exclusive[parent] if l != space.parents[said])
    page.get_by_text('Correct', exact=True).click(); page.get_by_label(parent).fill(other); page.get_by_label(parent).press('Tab')
    assert page.inner_text('.odd[role=alert] >> nth=-1') == f'{said} belongs to {space.parents[said]}, not to {other}.'

def test_by_keyboard(page, served, pictures):
    page.goto(served); page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.id') == 'pictures'
    assert page.evaluate("getComputedStyle(document.querySelector('.drop')).outlineStyle") == 'solid'
    drop(page, pictures[:1])
    for name in ('title', '', 'mode'): page.keyboard.press('Tab'); assert page.evaluate('document.activeElement.name') == name
    for _ in range(2): page.keyboard.press('ArrowDown'); page.wait_for_selector('.waiting', state='detached')   # high_recall has tags
    for _ in range(20):
        page.keyboard.press('Tab')
        if page.evaluate('!!document.activeElement.dataset.tag'): break
    else: pytest.fail('no tag was reached')
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == 'solid'
    while page.evaluate('document.activeElement.textContent') != 'Correct': page.keyboard.press('Tab')
    page.keyboard.press('Enter'); page.keyboard.press('Tab'); assert page.evaluate('!!document.activeElement.dataset.group')

def test_mode_and_number(page, served, pictures, tagger):
    page.goto(served); drop(page, pictures[:2]); field = page.get_by_label('Maximum number of tags'); field.fill('1'); field.press('Tab')
    page.wait_for_selector('.waiting', state='detached')
    assert page.locator('.card').first.locator('dd').count() == len(tagger.predict(pictures[0], mode='balanced', k=1))
    page.get_by_label('Mode').select_option('top_k'); page.wait_for_selector('.waiting', state='detached')
    assert page.locator('dd').count() == 2

@pytest.mark.parametrize('width, scheme', [(390, 'light'), (390, 'dark'), (1200, 'dark')])
def test_on_a_phone_and_in_the_dark(page, served, pictures, width, scheme):
    page.set_viewport_size(dict(width=width, height=800)); page.emulate_media(color_scheme=scheme); page.goto(served)
    drop(page, pictures[:2])
    for o in page.get_by_text('Correct', exact=True).all(): o.click()
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    light = sum(map(int, re.findall(r'\d+', page.evaluate('getComputedStyle(document.body).backgroundColor')))) > 384
    assert light == (scheme == 'light')

def test_bad_files_and_many(browser, served, pictures, tmp_path):
    page = browser.new_page(); page.goto(served)    # a browser notes each refusal on its console, so no error is looked for there
    (tmp_path/'notes.jpg').write_text('no picture'); (tmp_path/'=1+1.png').write_bytes(b'')
    with open(tmp_path/'huge.jpg', 'wb') as f: f.truncate(51 << 20)
    drop(page, [tmp_path/'notes.jpg', tmp_path/'=1+1.png', tmp_path/'huge.jpg', pictures[0]])
    assert told(page).startswith('4 of 4 pictures') and '3 could not be used' in told(page)
    assert [o.inner_text()
            for o in page.locator('.failed .flag').all()] == ['Could not be used: not an image: its content is unknown, expected one of '
                                                              'JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF', 'Could not be used: empty file',
                                                              'Could not be used: too large: the limit is 32 MB']
    tags = saved(page, 'Download tags')
    assert tags[tags['reason'] != '']['image'].tolist() == ['notes.jpg', "'=1+1.png", 'huge.jpg']
    many = (pictures*3)[:200]; other = browser.new_page(); other.goto(served)
    for o in (page, other): o.set_input_files('#pictures', many)
    for o, n in ((page, 204), (other, 200)):
        o.wait_for_selector('.waiting', state='detached', timeout=120_000); assert told(o).startswith(f'{n} of {n} pictures')
    page.get_by_label('only pictures that need review').check(); assert page.locator('.failed:visible').count() == 0
    page.get_by_role('button', name='Remove all').click(); assert page.locator('.card').count() == 0
    page.close(); other.close()

def test_a_server_that_has_gone(browser, tagger, pictures):
    page = browser.new_page()
    with serving(make_app(tagger)) as url: page.goto(url); drop(page, pictures[:1])
    drop(page, pictures[1:2]); assert 'the server was stopped' in page.inner_text('.failed')
    page.locator('[data-tag]').first.click(); page.wait_for_selector('figcaption:has-text("the server was stopped")')
    page.close()

def test_free_tags_and_rude_ones(page, tagger, pictures):
    "Struck out, added; and no label is run as code: the fixture fails on an error of the console and on a refusal of the page's policy."
    page.on('dialog', lambda o: pytest.fail(o.message))
    labels = ['<img src=x onerror=alert(1)>', "' onfocus='alert(2)", '=1+1']; n = len(tagger.space.vocab)
    rude = replace(tagger, space=LabelSpace([*labels, *(f'label {i}' for i in range(n - 3))], {}, {}, {}), decision=None)
    with serving(make_app(rude, name='<script>alert(3)</script>')) as url:
        page.goto(url)
        field = page.get_by_label('Maximum number of tags'); field.fill(str(n)); field.press('Tab'); drop(page, pictures[:1])
        page.get_by_text('Correct', exact=True).click()
        for o in labels[::2]: page.locator('.box', has_text=o).locator('input').uncheck()
        page.get_by_label('add a tag').fill('</label><script>alert(4)</script>'); page.get_by_label('add a tag').press('Enter')
        rows = saved(page, 'Download corrections')
    assert rows[['predicted', 'correct']].values.tolist() == [[labels[0], ''], ["'=1+1", ''], ['', '</label><script>alert(4)</script>']]

def test_similar_products_and_heat_for_a_person(page, tagger, pictures):
    table = pd.DataFrame({'image': [str(o) for o in pictures[:12]], 'labels': [['Tops']]*12})
    with serving(make_app(tagger, index=SimpleNamespace(table=table, search=lambda data, k: table[:k].assign(score=.5)))) as url:
        page.goto(url); drop(page, pictures[:1]); plain = page.locator('figure img').get_attribute('src')
        page.get_by_text('Similar products').click(); page.wait_for_selector('.similar li')
        assert page.locator('.similar li').count() == 10
        assert page.locator('.similar li').first.inner_text() == f'{pictures[0].stem} 0.50 Tops'
        tag = page.locator('[data-tag]').first; tag.click(); page.wait_for_selector('figcaption:not(:empty)')
        if 'captum' not in page.inner_text('figcaption'):
            assert page.locator('figure img').get_attribute('src').startswith('blob:') and tag.get_attribute('aria-pressed') == 'true'
        tag.click(); tag.click(); page.wait_for_selector('[aria-pressed=true]'); tag.click()
        page.wait_for_selector('figcaption:empty', state='attached')
        assert page.locator('figure img').get_attribute('src') == plain
