"The words of shops and their lemmas, which speakers of the languages wrote: the tables say what is right, never what the code answers."
import csv
from pathlib import Path

import pytest

from catalog_tagger.catalog.text import find_words, fit_words

# Share of words whose lemma is found; of `held` only the share was looked at while the rules were made, not which words were wrong
FLOORS = dict(de=.98, en=.98, de_held=.95, en_held=.92)

def rows_of(name):
    with (Path(__file__).parent/f'words_{name}.csv').open(newline='') as f: return list(csv.DictReader(f))

def german(texts, rows):
    words = find_words(texts, lang='de').groupby('item')['word'].agg(set)
    return [words.get(i, set()) for i in range(len(texts))]

def english(texts, rows):
    "The tags of `texts`, named from texts in which each word is in use: *jeans* and *shirt*."
    used = [f'A {r["lemma"]}' + ' thing'*(r['kind'] == 'adj') for r in rows]
    fitted = fit_words(find_words([*texts, *used]), k=99, n_nouns=10**6, n_adjs=10**6, min_count=1, pairs=False)
    return list(map(set, fitted.apply(texts)))

@pytest.mark.parametrize('case', [str, str.upper, str.lower], ids=['written', 'capitals', 'lower case'])
@pytest.mark.parametrize('name', FLOORS)
def test_the_lemma_of_a_word_is_that_of_a_speaker(name, case):
    rows = rows_of(name)
    found = (german if name[:2] == 'de' else english)([case(r['text']) for r in rows], rows)
    wrong = [f'{r["form"]}: {r["lemma"]}, not {", ".join(sorted(o))}' for r, o in zip(rows, found) if r['lemma'] not in o]
    print(f'{name}: {1 - len(wrong)/len(rows):.3f} of {len(rows)}', *wrong, sep='\n')
    assert 1 - len(wrong)/len(rows) >= FLOORS[name], wrong

@pytest.mark.parametrize('name', FLOORS)
def test_the_tables_are_of_words_in_use(name):
    rows = rows_of(name)
    assert len(rows) >= (100 if 'held' in name else 290) and len({(r['form'], r['lemma']) for r in rows}) == len(rows)
    assert all(r['kind'] in ('noun', 'adj') and r['form'].lower() in r['text'].lower() and r['lemma'].islower() for r in rows)
    if 'held' in name: assert not {r['form'] for r in rows} & {r['form'] for r in rows_of(name[:2])}

FOUND = dict(de="""
KLEID → kleid
kleid → kleid
Kleid → kleid
Tasche aus LEDER → tasche leder
GRÖSSE → größe
GROSSE SCHÜSSEL → groß schüssel
Rock aus Tüll und Satin → rock tüll satin
Schal aus Kaschmir → schal kaschmir
Tops in Rosa → top rosa
Jacke aus Denim → jacke denim
Schuhe aus Italien → schuh
Bluse von Anna → bluse
Hals- und Armband → halsband armband
Damen- und Herrenschuhe → damenschuh herrenschuh
Bade-, Hand- und Geschirrtuch → badetuch handtuch geschirrtuch
Kleid- rot → kleid rot
Rotes Kleid Mit Langen Ärmeln → rot kleid lang ärmel
Ärmelloses Kleid → ärmellos kleid
Papier aus Zellulose → papier zellulose
Gürtel mit Schnalle → gürtel schnalle
Gürtel 3 cm breit, 2 Zoll → gürtel breit
5 Liter, 200 Gramm, 2 Stück → 
Ein schönes Stück → schön stück""", en="""
A checked shirt → checked shirt
open shelves → open shelf
blouse with ruffles → blouse ruffle
a wide ruffle → wide ruffle
long- and short-sleeved shirts → long-sleeved short-sleeved shirt
Belt 3 cm wide, 2 Inches → belt wide
30 x 20 CM, 5 kg, 1.5 l, 100 ml → 
A foot of 5 feet → foot
20 years, many years → year
60 °C, 40 degrees, 7 oz → """)

@pytest.mark.parametrize('lang, case', [(lang, o) for lang, cases in FOUND.items() for o in cases.strip('\n').splitlines()])
def test_words_of_a_text(lang, case):
    text, want = case.split(' → ')
    assert find_words([text], lang=lang)['word'].tolist() == want.split()
