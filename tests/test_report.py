"The report as its reader has it: in a browser, on a phone, on paper, and after the catalog has gone."
import os, re, shlex, shutil, subprocess, sys
from dataclasses import replace

import numpy as np, pandas as pd, pytest
from fastcore.xml import P, to_xml
from PIL import Image

from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.process import rng
from catalog_tagger.serve.review import review_queue
from catalog_tagger.testing.demo import demo_feidegger, demo_folders, demo_styles, demo_tags
from catalog_tagger.report.report import (
    _answer_lines, _curve, _difference, _doubtful, _html_table, _is_number, _report_page, _Sorted, _speed, _text, _thumbnail,
    _with_interval, compare_page, judge_test, publish_table, repeat_command, run_page, write_report)
from catalog_tagger.runs.folder import Run
from catalog_tagger.runs.train import train_run

EVIL = '<script>window.hit = 1</script>'
ODD = r'$\frac$ & "more" 靴'

def quiet(o): pass

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Two runs on a catalog whose labels would like to be code, in a folder that would, too."
    p = tmp_path_factory.mktemp('R&B <b>')
    shop = demo_styles(p/'shop', n=150, faults=('empty', 'html'))
    df = pd.read_csv(shop/'styles.csv', dtype=str)
    types = df['articleType'].value_counts().index
    df.assign(articleType=df['articleType'].replace({types[0]: EVIL, types[1]: ODD})).to_csv(shop/'styles.csv', index=False)
    cfg = RunConfig(str(shop), str(p/'run'), size=48, bs=16, freeze_epochs=2, epochs=0, where='year > 0', lr_find=True)
    train_run(cfg, say=quiet)
    train_run(replace(cfg, out=str(p/'other'), freeze_epochs=1), say=quiet)
    return p

@pytest.fixture(scope='module')
def report(place): return write_report([place/'run'], place/'report.html')

@pytest.fixture(scope='module')
def both(place): return write_report([place/'run', place/'other'], place/'both.html')

@pytest.fixture(params=['report', 'both'])
def path(request): return request.getfixturevalue(request.param)

def shown(page, path):
    "Open `path`; the addresses that the browser asked for on the way."
    asked = []
    page.on('request', lambda o: asked.append(o.url))
    page.goto(path.as_uri())
    return [o for o in asked if not o.startswith('data:')]

# ---- in a browser

def test_it_opens_without_error_and_asks_for_nothing(page, path):
    assert shown(page, path) == [path.as_uri()]
    assert page.evaluate('[...document.images].every(o => o.complete && o.naturalWidth && o.alt)')
    assert page.locator('section').count() == page.locator('nav a').count() > 5
    for link in page.locator('nav a').all(): assert page.locator(link.get_attribute('href')).count() == 1

def test_a_label_called_script_stays_a_label(page, path):
    shown(page, path)
    assert page.evaluate('window.hit') is None and page.locator('script').count() == 1 and page.locator('b').count() == 0
    assert {EVIL, ODD} <= set(page.locator('section:has(#each-label) tbody th').all_inner_texts())

def test_what_got_past_the_escaping_would_not_run(browser, report, place):
    forged = place/'forged.html'
    forged.write_text(
        report.read_text(encoding='utf-8').replace('<main>', f'<main>{EVIL}<img src="https://example.com/x.png" onerror="window.hit = 2">'),
        encoding='utf-8')
    page, told = browser.new_page(), []
    page.on('console', lambda o: told.append(o.text)); shown(page, forged)
    assert page.evaluate('window.hit') is None and sum('Content Security Policy' in o for o in told) == 3
    page.close()

def column(page, i): return page.locator(f'section:has(#each-label) tbody tr > :nth-child({i + 1})').all_inner_texts()

def test_a_click_sorts_and_another_turns_it_round(page, report):
    shown(page, report); head = page.locator('section:has(#each-label) thead th'); names = [o.split()[0] for o in head.all_inner_texts()]
    for name, key in (('label', lambda o: o), ('f1', float), ('in', lambda o: int(o.replace(',', '')))):
        i = names.index(name); head.nth(i).locator('button').click(); up = column(page, i)
        head.nth(i).locator('button').click(); down = column(page, i)
        there = [key(o) for o in up if o != '–']
        if name != 'label': assert there == sorted(there) and [key(o) for o in down if o != '–'] == there[::-1]
        assert up[len(there):] == down[len(there):] == ['–']*(len(up) - len(there))   # what is missing stands last either way
        assert head.nth(i).get_attribute('aria-sort') == 'descending' and page.locator('section:has(#each-label) [aria-sort]').count() == 1
    assert sorted(column(page, 0)) == sorted(Run.open(report.parent/'run').labels.vocab)

def test_rows_move_as_a_whole(page, report):
    def rows(): return {o.inner_text() for o in page.locator('section:has(#each-label) tbody tr').all()}
    shown(page, report); before = rows()
    page.locator('section:has(#each-label) thead button').nth(5).click()
    assert rows() == before

def test_the_keyboard_sorts(page, report):
    shown(page, report)
    page.locator('section:has(#each-label) .tall').focus(); page.keyboard.press('Tab'); page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    assert page.locator('section:has(#each-label) thead th').nth(1).get_attribute('aria-sort') == 'ascending'
    page.keyboard.press('Space')
    assert page.locator('section:has(#each-label) thead th').nth(1).get_attribute('aria-sort') == 'descending'

@pytest.mark.parametrize('width', [390, 320])
def test_a_phone_scrolls_down_alone(page, path, width):
    page.set_viewport_size(dict(width=width, height=800)); shown(page, path)
    page.evaluate('document.querySelectorAll("details").forEach(o => o.open = true)')
    assert page.evaluate('document.documentElement.scrollWidth') == width

def contrast(page, what):
    "The contrast of the text of `what` with the page, after WCAG 2."
    ink, ground = page.evaluate('o => [getComputedStyle(document.querySelector(o)).color, getComputedStyle(document.body).backgroundColor]',
                                what)
    def light(o):
        x = np.array([int(c) for c in re.findall(r'\d+', o)[:3]])/255
        return np.where(x <= .03928, x/12.92, ((x + .055)/1.055)**2.4) @ [.2126, .7152, .0722] + .05
    a, b = light(ink), light(ground)
    return max(a, b)/min(a, b), a > b

@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_is_read_on_light_and_on_dark(page, report, scheme):
    page.emulate_media(color_scheme=scheme); shown(page, report)
    for what in ('main p', 'nav a', 'figcaption', 'summary', '.caption', '.wrong'):
        ratio, bright = contrast(page, what)
        assert ratio >= 4.5 and bright == (scheme == 'dark'), (what, ratio)

def test_it_prints(page, path):
    shown(page, path); pdf = page.pdf(format='A4')
    assert pdf.startswith(b'%PDF') and len(re.findall(rb'/Type /Page\b', pdf)) >= 2
    page.emulate_media(media='print', color_scheme='dark')
    assert not page.locator('nav').is_visible() and not contrast(page, 'main p')[1]   # black on white
    assert page.evaluate('[...document.querySelectorAll(".wide")].every(o => getComputedStyle(o).overflowY == "visible")')

# ---- its parts

@pytest.mark.parametrize('value, text', [(41907, '41,907'), (.91234, '0.912'), (['a', 'b'], 'a, b'), ([], '–'), (None, '–'),
                                         (float('nan'), '–'), ('', '–'), (True, 'yes'), ('x', 'x')])
def test_a_value_as_text(value, text): assert _text(value) == text

def test_a_score_with_its_interval():
    assert [_with_interval(.9, .88, .92), _with_interval(.9, None, None)] == ['0.900 (0.880–0.920)', '0.900']

def test_a_table_escapes_its_cells_and_keeps_the_numbers_that_sort_them():
    evil = pd.DataFrame(dict(label=[EVIL, 'R&B "vinyl"'], f1=[.5, np.nan]))
    table = to_xml(_html_table(evil, '<b>', sort=True), indent=False)
    assert '<script>' not in table and '<b>' not in table and '&lt;script&gt;window.hit = 1&lt;/script&gt;' in table
    assert '<td data-value="0.5" class="number">0.500</td>' in table and '<td class="number">–</td>' in table
    assert to_xml(_html_table(evil, 'labels', most=1)).count('… and 1 more') == 1

def test_what_is_sorted_as_a_number():
    values = (1, .5, _Sorted('1 (0–2)', 1), True, None, np.nan, _Sorted('–', None), 'x')
    assert [_is_number(o) for o in values] == [True]*3 + [False]*5

def test_a_picture_and_the_lines_below_it(place):
    path = next((place/'shop'/'images').glob('1*.jpg')); small = _thumbnail(path, side=48)
    assert (small.alt, int(small.get('width')) <= 48, small.src[:23]) == (path.name, True, 'data:image/jpeg;base64,')
    lines = _answer_lines([('Shoes', .9), ('Red', .4)], ['Shoes', 'Blue'])
    assert [o[0].get('class') for o in lines] == ['right', 'wrong', 'missed']
    for o, text in zip(lines, ('Shoes 0.90', 'Red 0.40', 'Blue'), strict=True): assert text in to_xml(o)
    assert '?' in to_xml(_answer_lines([('Red', .4)], ['Shoes'], ['Red'])[0])     # nobody told its colour

def test_titles_are_text_and_nothing_is_loaded():
    page = _report_page('<script>', [P('R&B')], {'What & why': [P('text')]})
    assert (page.count('<script>'), page.count('&lt;script&gt;'), page.count('R&amp;B')) == (1, 2, 1)
    assert page.startswith('<!doctype html>')
    assert '<a href="#what-why">What &amp; why</a>' in page and '<h2 id="what-why">' in page
    assert re.findall('(?:src|href)="(?!#|data:)', page) == []

def test_the_speed_of_each_stage():
    history = pd.DataFrame(dict(stage=['frozen', 'frozen', 'unfrozen'], epoch=[1, 2, 3], pictures=[96, 192, 288], seconds=[1., 2., 4.]))
    assert _speed(history).values.tolist() == [['frozen', 2, 192, 3, 64], ['unfrozen', 1, 96, 4, 24]]

@pytest.mark.parametrize('low, says', [(.6, 'overlap'), (.61, 'apart'), (None, '–')])
def test_intervals_overlap_or_not(low, says):
    assert _difference(dict(score=.5, low=.4, high=.6), dict(score=.7, low=low, high=.9))[1] == says

def test_the_sections(report, both):
    def ids(path): return re.findall('<h2 id="(.*?)"', path.read_text(encoding='utf-8'))
    assert ids(report) == ['data', 'split', 'labels', 'training', 'scores', 'words-and-pictures', 'each-label', 'confusion',
                           'worst-pictures', 'doubtful-pictures', 'what-can-be-published', 'speed', 'versions', 'to-repeat-it']
    assert ids(both) == ['runs', 'scores', 'each-label', 'training', 'speed', 'versions', 'to-repeat-them']

# ---- as a file

def test_it_is_small_and_the_same_each_time(place, report):
    assert report.stat().st_size < 3e6
    assert run_page(Run.open(place/'run')) == report.read_text(encoding='utf-8')

def test_large_pictures_make_no_large_page(place, report, tmp_path):
    shop = shutil.copytree(place/'shop', tmp_path/'shop')
    noise = Image.fromarray(rng(0, 'noise').integers(0, 256, (1500, 1500, 3), np.uint8))
    for o in Run.open(place/'run').split.query('split == "test"')['image']: noise.save(shop/o, quality=95)
    assert len(run_page(Run.open(place/'run', shop))) < 4e6

def test_the_command_writes_the_same_file(place, report):
    r = subprocess.run([sys.executable, '-m', 'catalog_tagger.apps.cli', 'report', 'run', '--out', 'again.html'], cwd=place, text=True,
                       capture_output=True)
    assert (r.returncode, r.stdout) == (0, 'saved in again.html\n'), r.stderr
    assert (place/'again.html').read_bytes() == report.read_bytes()

@pytest.mark.parametrize('argv, says',
                         [(['shop'], 'config.json does not exist'), (['run', '--out', 'r.pdf'], 'expected a file that ends in .html'),
                          (['run', 'run'], 'give two or more different runs'),
                          (['run', 'other', '--source', 'shop'], 'can only be given for the report of one run'), ([], 'required: RUN')])
def test_a_wrong_call_ends_in_one_line(place, argv, says, capsys, monkeypatch, tmp_path):
    from catalog_tagger.apps.cli import main
    monkeypatch.chdir(place)
    out = [] if '--out' in argv else ['--out', str(tmp_path/'report.html')]
    assert main(['report', *argv, *out]) == 2 and says in (err := capsys.readouterr().err) and err.count('\n') == 1
    assert not (place/'r.pdf').exists()

# ---- what it says

def test_the_shell_reads_the_command_back(place):
    cfg = replace(Run.open(place/'run').config, where='''it's "odd" & $HOME''')
    words = subprocess.run(['sh', '-c', f'for o in {repeat_command(cfg)}; do echo "$o"; done'], text=True,
                           capture_output=True).stdout.splitlines()
    assert words[:5] == ['catalog_tagger', 'train', cfg.source, '--out', cfg.out]
    assert '''--where=it's "odd" & $HOME''' in words and '--lr-find' in words

def test_a_catalog_that_is_gone_is_told(place, tmp_path):
    run = shutil.copytree(place/'run', tmp_path/'run')
    moved = shutil.copytree(place/'shop', tmp_path/'moved')
    config = run/'config.json'
    config.write_text(config.read_text(encoding='utf-8').replace(str(place/'shop'), str(tmp_path/'gone')), encoding='utf-8')
    page = run_page(Run.open(run))
    assert 'pictures of' in page and 'are missing' in page and 'image/jpeg' not in page and 'id="each-label"' in page
    assert 'id="confusion"' not in page
    assert 'id="confusion"' in run_page(Run.open(run, moved))

def test_a_bundle_that_is_damaged_is_told(place, tmp_path):
    run = shutil.copytree(place/'run', tmp_path/'run'); (run/'tagger'/'tagger.json').write_text('{')
    assert 'Confusion, pictures and coverage are left out' in run_page(Run.open(run))

def test_a_picture_that_is_damaged_is_told(place, tmp_path):
    shop = shutil.copytree(place/'shop', tmp_path/'shop')
    (shop/Run.open(place/'run').split.query('split == "test"')['image'].iloc[0]).write_bytes(b'junk')
    assert 'not an image' in run_page(Run.open(place/'run', shop))

def test_no_pickle_is_loaded(place, tmp_path, monkeypatch):
    import fastai.learner
    run = shutil.copytree(place/'run', tmp_path/'run'); shutil.rmtree(run/'tagger')
    monkeypatch.setattr(fastai.learner, 'load_learner', lambda *_, **__: pytest.fail('a pickle was loaded'))
    assert 'has no bundle' in run_page(Run.open(run))

def test_what_is_published_is_what_the_queue_leaves(place):
    j = judge_test(Run.open(place/'run'))
    for limit in (.05, .2, .5):
        d = replace(j.decision, publish={'': limit})
        row = publish_table(j._replace(decision=d)).iloc[0]
        assert row['n'] == len(j.df) - len(review_queue(j.df, j.scores, j.space, d))
        assert row['share'] == row['n']/len(j.df) and (row['low'] <= row['right'] or row['n'] == 0)

def test_runs_side_by_side(both):
    scores = re.search('id="scores">(.*?)</table>', both.read_text(encoding='utf-8'), re.S)[1]
    heads = [re.sub('<.*?>', '', o) for o in re.findall('<th .*?>(.*?)</th>', scores.partition('</thead>')[0])]
    assert heads == ['score', 'most frequent', 'run', 'other', 'other: difference', 'other: intervals']

def test_runs_on_other_pictures_are_told_apart(place, tmp_path):
    assert 'different pictures' not in compare_page([Run.open(place/'run'), Run.open(place/'other')])
    run = shutil.copytree(place/'run', tmp_path/'run'); path = run/'split.csv'
    path.write_text(path.read_text(encoding='utf-8').replace(',valid,', ',tmp,', 1), encoding='utf-8')
    assert 'different pictures' in compare_page([Run.open(place/'run'), Run.open(run)])

def test_nothing_is_trained_to_be_compared(place, tmp_path):
    run = shutil.copytree(place/'run', tmp_path/'run'); (run/'metrics.json').unlink()
    with pytest.raises(CatalogError, match='metrics.json does not exist'): compare_page([Run.open(place/'other'), Run.open(run)])

# ---- every kind of catalog

@pytest.mark.parametrize('make, words, says',
                         [(demo_folders, None, 'accuracy/category on test'),
                          (demo_tags, None, 'how often each free tag was right, missed and wrong'), (demo_feidegger, 'de', '--words=de')])
def test_every_kind_of_catalog_has_its_report(make, words, says, tmp_path, page):
    cfg = RunConfig(str(make(tmp_path/'shop', n=90)), str(tmp_path/'run'), size=32, bs=16, freeze_epochs=1, epochs=0, words=words)
    train_run(cfg, say=quiet)
    path = write_report([cfg.out], tmp_path/'report.html')
    assert says in path.read_text(encoding='utf-8') and shown(page, path) == [path.as_uri()]
    assert page.locator('#confusion').count() == 1 and page.locator('.cards img').count() >= 20
    if make is demo_tags:   # a model that says nothing
        j = judge_test(Run.open(cfg.out)); none = np.zeros_like(j.p)
        mute = j._replace(scores=none, p=none, pred=none, answers=[[]]*len(j.df))
        assert 'No picture has an answer.' in str(_curve(mute, None)) and 'no answer' in str(_doubtful(mute)[1])
