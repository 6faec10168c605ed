"Descriptions as shops export them: cleaned in one place, negations kept apart from their opposites, and all of it told."
import json
from pathlib import Path

import pandas as pd, pytest

from catalog_tagger.catalog import text as text_module
from catalog_tagger.catalog.descriptions import clean_text, clean_texts
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.catalog.text import find_words, tag_texts
from catalog_tagger.core.config import RunConfig
from catalog_tagger.core.files import write_json
from catalog_tagger.testing.demo import demo_feidegger

@pytest.mark.parametrize('text, want', [
    ('<p>Red <strong>dress</strong>&nbsp;with pockets</p>', 'Red dress with pockets'),
    ('Red<br>Blue<BR />Green</br>Grey', 'Red\nBlue\nGreen\nGrey'),
    ('<table><tr><td>Wool<td>Silk</table>', 'Wool\nSilk'),
    ('<h2>Dress</h2>\n\n<ul><li>Cotton</li>\n<li>Belt</li></ul>', 'Dress\nCotton\nBelt'),
    ('<style type="text/css">p > b {color: red}</style><script>if (a < b) { x = "</p>" }</script>Skirt', 'Skirt'),
    ('Bag<!-- <b>old</b> --> new<!-- and <i>never closed', 'Bag new'),
    ('<p class="a > b" title=\'c > d\'>Coat</p>', 'Coat'),
    ('<P STYLE="color:red">Coat</P>', 'Coat'),
    ('<![CDATA[<p>Rotes Kleid</p>]]>', 'Rotes Kleid'),
    ('<o:p>Mantel</o:p><custom-tag x=1>rot</custom-tag>', 'Mantelrot'),
    ('<!DOCTYPE html><?xml version="1.0"?><html><body>Hut</body></html>', 'Hut'),
    ('&lt;p&gt;Rotes Kleid&lt;/p&gt;', 'Rotes Kleid'),
    ('&amp;lt;b&amp;gt;Rot&amp;lt;/b&amp;gt;', 'Rot'),
    ('We <3 it, size < 40, <M>, a<b', 'We <3 it, size < 40, <M>, a<b'),
    ('G&uuml;rtel, G&uumlrtel, &Auml;rmel, &#228;, &#xe4;, &amp;uuml;, R&D, A & B', 'Gürtel, Gürtel, Ärmel, ä, ä, ü, R&D, A & B'),
    ('Som\u00admer\u00adkleid', 'Sommerkleid'), ('T\u2011Shirt, T\u2010Shirt, T\uff0dShirt', 'T-Shirt, T-Shirt, T-Shirt'),
    ('a\u00a0b\u202fc\u2003d\u3000e\tf', 'a b c d e f'), ('women\u2019s, women\u02bcs', "women's, women's"), ('dress\u200b\ufeff', 'dress'),
    ('a\r\nb\rc\u2028d\x0be', 'a\nb\nc\nd\ne'), ('  ', ''), ('<p>&nbsp;</p>\n<br>', ''), ('Ko\u0308per', 'Köper'),
    ('See https://shop.example/a?b=c#d, www.shop.example or a.b+c@mail.shop.example!', 'See or !'),
    ('Mehr auf zalando.de/kleid', 'Mehr auf'),
    ('data:image/png;base64,iVBORw0KGgo= x', 'x'), ('A ' + 'Ab1+/'*300 + ' b', 'A b'), ('A ' + 'x'*61 + ' ' + 'y'*60, 'A ' + 'y'*60),
    ('rot/blau/grün/'*9, 'rot/blau/grün/'*9), ('Preis: 5,50. Neu', 'Preis: 5,50. Neu')])
def test_a_text_is_cleaned(text, want): assert clean_text(text) == want

def test_a_clean_text_stays_as_it_is():
    texts = ['Rotes Kleid, 100 % Baumwolle (neu!)', "Women's T-shirt & jeans", 'Größe: 38/40 – sofort', 'a-b_c', 'Nike Air Max 90']
    assert clean_texts(texts) == (texts, [])

def test_what_was_cleaned_is_counted_with_an_example():
    texts, notes = clean_texts(['<b>Red</b> dress', 'Blue&nbsp;bag', 'Grey<br>hat', None, 'Black coat'])
    assert texts == ['Red dress', 'Blue bag', 'Grey\nhat', '', 'Black coat']
    assert notes[0] == "markup left out in 2 texts, such as '<b>Red</b> dress' → 'Red dress'"
    assert notes[1].startswith('HTML entities decoded in 1 texts')
    long = 'Ein sehr langer Text. '*9 + '<i>Ende</i>'
    assert '<i>Ende' in clean_texts([long])[1][0]

def test_no_long_token_reaches_a_tagger(monkeypatch):
    "The work for a text is bounded by its tokens and their length, whatever it holds."
    seen = []
    monkeypatch.setitem(text_module.ENGINES, 'hanta', lambda lang: lambda tokens: seen.extend(tokens) or [('', '')]*len(tokens))
    odd = ['x'*5000, 'x-'*3000, 'AbC1'*3000, 'Kleid <img src="data:image/png;base64,' + 'Qk1+/'*2000 + '">', 'https://a.example/' + 'b'*500,
           '_'*500, '<'*5000, '&amp;'*5000]
    find_words(odd, lang='de')
    assert 0 < len(seen) < 12000 and max(map(len, seen)) <= 60

DENIED = dict(de="""
Kleid ohne Ärmel → kleid,ohne ärmel
KLEID OHNE ÄRMEL → kleid,ohne ärmel
Rock, kein Gürtel → rock,ohne gürtel
Hose ohne Kragen und Gürtel → hose,ohne kragen,ohne gürtel
ohne Kragen, Gürtel oder Taschen → ohne kragen,ohne gürtel,ohne tasche
Kleid ohne Ärmel, weiter Rock → kleid,ohne ärmel,rock
ohne Ärmel und mit Gürtel → ohne ärmel,gürtel
Das Hemd ist nicht transparent und weich → hemd,nicht transparent,weich
Weder Ärmel noch Kragen → ohne ärmel,ohne kragen
keine Taschen, aber ein Gürtel → ohne tasche,gürtel
Nicht nur schön, sondern auch bequem → schön,bequem
Ohne Weiteres waschbar → waschbar
ohne Brust- und Seitentaschen → ohne brusttasche,ohne seitentasche
Taschen: keine → ohne tasche
Gürtel nicht enthalten → ohne gürtel
ohne Ärmel. mit Taschen → ohne ärmel,tasche
ohne lange Ärmel → ohne lang ärmel
Ohne Gürtel. Der Rock ist weit → ohne gürtel,rock,weit
Ärmelloses, trägerloses Kleid → ärmellos,trägerlos,kleid
Bügelfreies Hemd → bügelfrei,hemd
Frei von Schadstoffen → ohne schadstoff
nicht aus Leder → ohne leder""", en="""
Dress without sleeves → dress,without sleeve
dress without collar or belt → dress,without collar,without belt
without a collar, belt or pockets → without collar,without belt,without pocket
no pockets but a belt → without pocket,belt
Shirt, not transparent → shirt,not transparent
not transparent and soft → not transparent,soft
non slip sole → nonslip,sole
free of plastic → without plastic
sugar free cake → sugar-free,cake
a sleeveless dress → sleeveless,dress
it doesn't have pockets → without pocket
it isn't transparent, soft cotton → not transparent,soft,cotton
not only soft but warm → soft,warm
perfume no. 5 → perfume
no-iron shirt → no-iron,shirt
No show socks → no-show,sock
dress w/o sleeves → dress,without sleeve
belt not included → without belt
Pockets: none → without pocket
no sleeves, blue skirt → without sleeve,blue,skirt
neither sleeves nor collar → without sleeve,without collar
no sleeves with pockets → without sleeve,pocket
no doubt a warm coat → warm,coat""")

@pytest.mark.parametrize('lang, case', [(lang, o) for lang, cases in DENIED.items() for o in cases.strip().splitlines()])
def test_a_negation_never_gives_the_opposite(lang, case):
    text, want = case.split(' → ')
    assert find_words([text], lang=lang)['word'].tolist() == want.split(',')

def test_a_frequent_negation_is_a_tag_and_a_rare_one_is_told():
    texts = ['Dress without sleeves']*6 + ['Skirt, no pockets']*5 + ['Shirt']*5 + ['Coat without a collar']
    notes = []
    tagged, fitted = tag_texts(pd.DataFrame(dict(image='x.jpg', text=texts, split='train')), say=notes.append)
    assert tagged['tags'].iloc[[0, 6, 16]].tolist() == [['dress', 'without sleeves'], ['skirt', 'without pockets'], []]
    assert notes == ['12 texts say what the product has not; tags of it: without sleeves, without pockets; '
                     "too rare for a tag: 1, such as 'without collar'"]
    assert fitted.apply(['no sleeves', 'sleeves']) == [['without sleeves'], []]

def test_texts_of_a_product_are_lines():
    words = find_words(['Red dress\nNavy belt', 'Red dress. Navy belt.'])
    assert words.groupby('item')['at'].diff().max() > 1 and words['word'].tolist() == ['red', 'dress', 'navy', 'belt']*2

def test_check_tells_what_was_cleaned_and_why_a_text_has_no_tag(tmp_path):
    root = demo_feidegger(tmp_path/'shop', n=60)
    file = root/'FEIDEGGER_demo.json'; rows = json.loads(file.read_text())
    for i, o in enumerate(rows): o['descriptions'] = ['<p>Rotes Kleid ohne&nbsp;G&uuml;rtel</p>', '']
    for i, o in enumerate((['👗'], [''], [], None, 7, ['Ein Unikat'])): rows[i]['descriptions'] = o
    write_json(file, rows)
    ready = prepare_catalog(RunConfig(str(root), str(tmp_path/'run'), words='de'))
    assert set(ready.space.vocab) == {'rot kleid', 'ohne gürtel'} and len(ready.catalog.df) == 54
    assert ready.catalog.rejected.set_index('row')['reason'].to_dict() == {
        0: 'no tags: no noun or adjective in the description', **dict.fromkeys((1, 2, 3), 'no tags: the description is empty'),
        4: "descriptions must be a list of texts, not '7'", 5: 'no tags: no word of the description is a tag: unikat'}
    notes = '\n'.join(ready.catalog.notes)
    for o in ('markup left out', 'HTML entities decoded'): assert f'{o} in 54 texts' in notes
    assert '54 texts say what the product has not; tags of it: ohne gürtel' in notes
