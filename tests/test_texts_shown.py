"What people see of texts: which words spoke, the report, the web page and the model card."
import html, json, re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np, pandas as pd, pytest

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.score import side_table
from catalog_tagger.runs.train import train_run
from catalog_tagger.serve.texts import SIDES
from catalog_tagger.serve.words import mark_words, text_ngrams, text_words
from catalog_tagger.testing.demo import demo_styles

EVIL = '</textarea><script>window.hit = 1</script> "quoted" \'Shirt\' & <b onmouseover=hit()>bold</b>'

def quiet(o): pass

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A run on drawn products; the titles of some would like to be code."
    p = tmp_path_factory.mktemp('my shop'); shop = demo_styles(p/'shop', n=150)
    df = pd.read_csv(shop/'styles.csv', dtype=str)
    odd = df.index % 5 == 0; df.loc[odd, 'productDisplayName'] += ' &lt;script&gt;window.hit = 1&lt;/script&gt; "x" &amp;lt;i&amp;gt;'
    df.loc[df.index % 29 == 0, 'productDisplayName'] = ''
    df.to_csv(shop/'styles.csv', index=False)
    cfg = RunConfig(str(shop), str(p/'run'), size=32, bs=16, freeze_epochs=2, epochs=0, label_columns=('articleType', 'baseColour'))
    train_run(cfg, say=quiet)
    return p

@pytest.fixture(scope='module')
def run(place): return Run.open(place/'run')

@pytest.fixture(scope='module')
def tagger(run): return run.tagger()

class Marks(HTMLParser):
    "The words of a piece of HTML with their class and number, and every tag in it."
    def __init__(self, text): super().__init__(); self.tags, self.words, self.text = set(), [], ''; self.feed(text)
    def handle_starttag(self, tag, attrs): self.tags.add(tag); self.words.append((dict(attrs).get('class'), dict(attrs).get('title')))
    def handle_data(self, data): self.text += data

# ---- which words

@pytest.mark.parametrize('text', ['Red running shoes', 'Fjordline Women Black Printed Tops', 'black BLACK black', 'Tops',
                                  '靴 Schuhe, größe 40!', EVIL])
def test_the_parts_of_words_and_of_ngrams_sum_to_the_margin(tagger, text):
    m = tagger.texts.model
    for i, tag in enumerate(tagger.space.vocab):
        parts, grams = text_words(tagger, text, tag)['part'], text_ngrams(tagger, text, tag)['part']
        want = m.margins([text])[0, i]; want = m.bias[i] if np.isnan(want) else want
        assert parts.sum() + m.bias[i] == pytest.approx(want, abs=1e-5) and grams.sum() == pytest.approx(parts.sum(), abs=1e-5)
        assert grams.tolist() == sorted(grams, reverse=True)

def test_an_ngram_is_its_weight_times_its_value(tagger):
    m, text, tag = tagger.texts.model, 'Women Black Tops', tagger.space.vocab[2]; at, x = m.terms(text)
    by_hand = {m.vocab[i]: float(v*m.weight[i, 2]) for i, v in zip(at, x)}
    table = text_ngrams(tagger, text, tag)
    shown = {('w ' if o.kind != 'piece' else '') + o.ngram.replace('␣', ' '): o.part for o in table.itertuples()}
    assert shown == pytest.approx(by_hand) and set(table['kind']) == {'piece', 'word', 'pair'}

def test_what_cannot_be_explained_is_told(tagger):
    with pytest.raises(CatalogError, match="'Sofas' is not a label of this model; there are"): text_words(tagger, 'Red', 'Sofas')
    tag = tagger.space.vocab[0]
    with pytest.raises(CatalogError, match='learned from pictures alone'): text_ngrams(replace(tagger, texts=None), 'Red', tag)
    assert len(text_words(tagger, None, tag)) == len(text_words(tagger, '', tag)) == 0

def test_marks_escape_words_and_tell_numbers():
    words = ['<script>alert(1)</script>', '"x"', "'y'", '&amp;', 'plain']
    marks = Marks(mark_words(pd.DataFrame(dict(word=words, part=[.8, -.8, .4, -.2, 0.]))))
    assert marks.tags == {'mark'} and marks.text == ' '.join(words)
    assert marks.words == [('for-4', '+0.80'), ('against-4', '-0.80'), ('for-2', '+0.40'), ('against-1', '-0.20'), ('against-0', '+0.00')]

# ---- the report

@pytest.fixture(scope='module')
def report(run):
    from catalog_tagger.report.report import run_page
    return run_page(run)

def section(report): return re.search('<h2 id="words-and-pictures">(.*?)</section>', report, re.S)[1]

def rows_of(part, caption):
    "The cells of the table with `caption`, by its first column."
    table = re.search(f'aria-label="{caption}[^>]*>(.*?)</table>', part, re.S)[1]
    cells = [re.findall('<t[hd].*?>(.*?)</t[hd]>', r, re.S) for r in re.findall('<tr>(.*?)</tr>', table, re.S)]
    rows = [[html.unescape(re.sub('<.*?>', '', o)) for o in r] for r in cells]
    return {o[0]: o[1:] for o in rows[1:]}

def test_the_numbers_of_the_report_are_those_of_the_run(report, place):
    res = json.loads((place/'run'/'metrics.json').read_text())['texts']; part = section(report)
    shown = rows_of(part, 'Scores of ')
    for k, o in res['sides']['both'].items():
        for i, s in enumerate(SIDES):
            d = res['sides'][s][k]; ends = '' if d['low'] is None else f' ({d["low"]:.3f}–{d["high"]:.3f})'
            assert shown[k][i] == f'{d["score"]:.3f}{ends}'
        assert shown[k][3:] == [f'{o["nothing"]:.3f}', f'{o["commonest"]:.3f}']
    leaks = rows_of(part, 'Texts that name')
    for g, o in res['groups'].items():
        cells = ['–' if (x := o[at][s]) is None else f'{x:.3f}' for at in ('where_named', 'where_not') for s in SIDES]
        assert leaks[g] == [f'{round(o["named"]*o["rows"])} of {o["rows"]}', *cells]
    kept = rows_of(part, 'What each side')
    assert {s: kept[s][0] for s in SIDES} == {s: str(o['published']) if o else 'nothing' for s, o in res['promise'].items()}
    assert res['missing'] > 0 and f'{res["missing"]} have none and are answered from the picture alone' in part

def test_the_words_of_the_report_are_escaped_and_explain_right_and_wrong(report, run, tagger):
    part = section(report); marks = [Marks(o) for o in re.findall('<div class="about">(<mark.*?)</div>', part, re.S)]
    assert len(marks) >= 4 and all(o.tags == {'mark'} for o in marks)
    assert '<script' not in part
    texts = {' '.join(tagger.texts.model.plain(o).split()) for o in run.pictures('test')['text']}
    assert all(o.text.strip() in texts for o in marks)

def test_a_run_without_texts_in_its_split_has_its_report(place, tmp_path):
    import shutil
    from catalog_tagger.report.report import run_page
    old = shutil.copytree(place/'run', tmp_path/'run'); df = pd.read_csv(old/'split.csv', dtype=str, keep_default_na=False)
    df.drop(columns='text').to_csv(old/'split.csv', index=False)
    page = section(run_page(Run.open(old, place/'shop')))
    assert 'split.csv has no texts' in page and 'Scores of ' in page and '<mark' not in page
    d = json.loads((old/'metrics.json').read_text()); del d['texts']; (old/'metrics.json').write_text(json.dumps(d))
    assert 'words-and-pictures' not in run_page(Run.open(old, place/'shop'))

def test_a_damaged_part_of_the_metrics_is_told_in_one_line(place, tmp_path):
    import shutil
    old = shutil.copytree(place/'run', tmp_path/'run'); d = json.loads((old/'metrics.json').read_text())
    del d['texts']['sides']['both']; (old/'metrics.json').write_text(json.dumps(d))
    with pytest.raises(CatalogError, match='both') as e: Run.open(old).metrics
    assert '\n' not in str(e.value)

def test_every_side_has_its_interval(run):
    res = run.metrics['texts']; table = side_table(res, every=True)
    assert {f'{s} {e}' for s in SIDES for e in ('low', 'high')} <= set(table)
    for s in SIDES: assert table.loc['exact_match', f'{s} low'] == res['sides'][s]['exact_match']['low']
    assert list(side_table(res)) == [*SIDES, 'low', 'high', 'nothing', 'commonest']

def test_the_plot_names_every_bar(run):
    from catalog_tagger.report.texts import side_plot
    res = run.metrics['texts']; ax = side_plot(res).axes[0]; names = [o.get_text() for o in ax.texts]
    groups = [k for k in res['sides']['both'] if k.startswith('accuracy/') or k == 'exact_match']
    assert names == [f'{s} {res["sides"][s][k]["score"]:.2f}' for s in SIDES for k in groups] + [
        f'most frequent label {res["sides"]["both"][k]["commonest"]:.2f}' for k in groups]

# ---- the model card

def test_the_card_tells_of_texts(place, run):
    card = (place/'run'/'tagger'/'README.md').read_text(); res = run.metrics['texts']
    assert '## Texts' in card and 'It also takes a text of productDisplayName' in card and 'Titles may name their labels' in card
    for s, what in (('text', 'the text alone'), ('both', 'picture and text')):
        assert f'| test, from {what} | exact_match {res["sides"][s]["exact_match"]["score"]:.3f}' in card

# ---- the web page

BYTES = {'content-type': 'application/octet-stream'}

@pytest.fixture(scope='module')
def pictures(place): return sorted((place/'shop'/'images').iterdir())

@pytest.fixture(scope='module')
def app(tagger):
    pytest.importorskip('fasthtml', reason='needs FastHTML: pip install "catalog_tagger[app]"')
    from catalog_tagger.apps.web import make_app
    return make_app(tagger, name='run')

@pytest.fixture(scope='module')
def ask(app):
    from starlette.testclient import TestClient
    web = TestClient(app, base_url='http://127.0.0.1', headers=BYTES)
    def ask(title='', picture=b'', path='/tag'):
        data = title.encode()
        return web.post(f'{path}{"&" if "?" in path else "?"}title={len(data)}', content=data + picture)
    ask.web = web
    return ask

def card_tags(r):
    assert r.status_code == 200, r.text
    return dict(o[1:3] for o in json.loads(html.unescape(re.search("data-rows='(.*?)' ", r.text)[1])))

def test_a_title_is_answered_as_the_tagger_does(ask, tagger, pictures):
    title, photo = 'Fjordline Women Black Printed Tops', pictures[1].read_bytes()
    def told(**kwargs): return pytest.approx(dict(tagger.predict(**kwargs, mode='balanced')), abs=2e-4)
    assert card_tags(ask(title)) == told(texts=title)
    assert card_tags(ask(title, photo)) == told(items=pictures[1], texts=title)
    assert card_tags(ask('', photo)) == card_tags(ask('Qqqq', photo)) == told(items=pictures[1])
    assert [re.search('<p class="dim">(.*?)</p>', ask(*o).text)[1] for o in ((title,), (title, photo), ('', photo), ('Qqqq', photo))] == [
        'From the title alone.', 'From the picture and the title.', 'From the picture alone.',
        'From the picture alone: no word of the title is known.']

def test_what_cannot_be_read_is_refused_in_one_line(ask, pictures):
    photo = pictures[0].read_bytes(); label = next(iter(ask.web.app.state.tagger.space.vocab))
    for r, says in [(ask('x'*10_001), 'the title has 10,001 characters, and the limit is 10,000: shorten it'),
                    (ask('x'*10_001, photo), 'shorten it'), (ask(), 'empty file'),
                    (ask('Qqqq'), 'no word of the title is known to the model'),
                    (ask.web.post('/tag?title=-1', content=photo), "title='-1', expected the number of its bytes"),
                    (ask.web.post('/tag?title=999999', content=b'x'), 'expected the number of its bytes'),
                    (ask.web.post('/tag?title=2', content=b'\xff\xfe'), 'the title is no text in UTF-8'),
                    (ask.web.post(f'/words?tag={label}', content=b'x'*10_001), 'shorten it'),
                    (ask.web.post('/words?tag=Sofas', content=b'Tops'), "'Sofas' is not a label")]:
        assert r.status_code == 400 and says in r.text and '\n' not in r.text
    assert ask('靴 Tops'*1000).status_code == 200      # 6,000 characters

def test_a_hostile_title_stays_text(ask, tagger, pictures):
    for r in (ask(EVIL), ask(EVIL, pictures[0].read_bytes())): assert '<script' not in r.text and '<b ' not in r.text
    title = 'red &lt;script&gt;hit()&lt;/script&gt; "x"'
    words = ask.web.post('/words', params=dict(tag=tagger.space.vocab[0]), content=title.encode()).text
    assert Marks(words).tags == {'span', 'mark', 'small'}

def test_a_tagger_without_texts_has_no_title(tagger, pictures):
    pytest.importorskip('fasthtml', reason='needs FastHTML: pip install "catalog_tagger[app]"')
    from starlette.testclient import TestClient
    from catalog_tagger.apps.web import make_app
    web = TestClient(make_app(replace(tagger, texts=None)), base_url='http://127.0.0.1', headers=BYTES)
    assert 'name="title"' not in web.get('/').text and 'From the' not in web.post('/tag', content=pictures[0].read_bytes()).text
    r = web.post('/tag?title=4', content=b'Tops'); assert r.status_code == 400 and 'learned from pictures alone' in r.text

@pytest.fixture(scope='module')
def served(app):
    from catalog_tagger.testing.browser import serving
    with serving(app) as url: yield url

def titled(page, box, title):
    box.fill(title); box.press('Enter'); page.wait_for_selector('.waiting', state='detached')

def shown_tags(page): return {o.get_attribute('data-tag') for o in page.locator('.card').first.locator('[data-tag]').all()}

def test_a_person_adds_a_title_and_corrects(page, served, pictures, tagger):
    page.goto(served); page.set_input_files('#pictures', str(pictures[1])); page.wait_for_selector('.card:not(.waiting)')
    card = page.locator('.card').first; assert 'From the picture alone.' in card.inner_text()
    title = 'Fjordline Women Black Printed Tops'; titled(page, card.get_by_label('Title'), title)
    page.wait_for_selector('text=From the picture and the title.')
    want = {t for t, _ in tagger.predict(pictures[1], texts=title, mode='balanced') if t in tagger.space.vocab}
    assert shown_tags(page) == want and page.evaluate('document.activeElement.name') == 'title'
    card.locator('[data-tag]').first.click(); page.wait_for_selector('.words mark')
    assert card.locator('.words mark').all_inner_texts() == title.split()
    card.locator('[data-tag]').first.click(); page.wait_for_selector('.words:empty', state='attached')
    card.get_by_text('Correct', exact=True).click(); field = card.get_by_label('articleType'); field.fill('Caps'); field.press('Tab')
    with page.expect_download() as d: page.get_by_role('button', name='Download corrections').click()
    rows = pd.read_csv(d.value.path(), keep_default_na=False, dtype=str)
    assert rows[['image', 'group', 'correct']].values.tolist() == [[pictures[1].name, 'articleType', 'Caps']]
    asked = []; page.on('dialog', lambda o: (asked.append(o.message), o.dismiss())); card.get_by_label('Title').press('Enter')
    assert asked == ['The corrections of this card will be removed. Tag it again?'] and 'Corrected (1)' in card.inner_text()

def test_a_title_alone_and_a_hostile_one(page, served, tagger):
    page.on('dialog', lambda o: pytest.fail(o.message)); page.goto(served); box = page.get_by_label('Or enter a title without a picture')
    titled(page, box, 'Black Tops'); card = page.locator('.card').first
    assert 'From the title alone.' in card.inner_text() and card.locator('img').count() == 0 and box.input_value() == ''
    titled(page, box, EVIL + ' Black Tops'); assert card.locator('h2').inner_text() == EVIL + ' Black Tops'
    page.locator('.card').first.locator('[data-tag]').first.click(); page.wait_for_selector('.words mark')
    assert page.evaluate('window.hit') is None and page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    with page.expect_download() as d: page.get_by_role('button', name='Download tags').click()
    assert set(pd.read_csv(d.value.path(), keep_default_na=False, dtype=str)['image']) == {EVIL + ' Black Tops', 'Black Tops'}

def test_a_title_that_is_too_long_can_be_mended(browser, served):
    page = browser.new_page(); page.goto(served)     # the browser notes the refusal on its console
    titled(page, page.get_by_label('Or enter a title without a picture'), 'Black Tops '*1000)
    card = page.locator('.card').first; assert 'the title has 10,999 characters, and the limit is 10,000: shorten it' in card.inner_text()
    titled(page, card.get_by_label('Title', exact=True), 'Black Tops'); page.wait_for_selector('text=From the title alone.')
    page.close()
