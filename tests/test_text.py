"Texts to tags: what must hold for any text, the road by NLTK, and real titles."
import os
from pathlib import Path

import pandas as pd, pytest
from nltk.data import path as nltk_path
from nltk.stem import PorterStemmer

from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.process import rng
from catalog_tagger.catalog.descriptions import clean_text, clean_texts
from catalog_tagger.catalog.text import (
    _NLTK, _TEXT_TOKEN, _is_word, TextTags, find_words, fit_text_tags, join_phrases, tag_texts)

SHOP = ['Navy Blue Skinny Jeans', 'Grey Jeans & White T-shirt', 'Women Black Sunglasses', 'Men Short Socks', 'Men Red Shorts',
        'Grey Trousers / Black Trousers', 'Navy Blue Flip Flops', 'Black Leggings', 'Women Red Flip Flops', 'White Tshirts', 'Red T-shirt',
        'Navy Blue Watches', 'Grey Watch', 'Grey Shorts']*3
ODD = ['', ' ', '_', '...', "'", '42', '🩳 👗', 'K\u00f6per', 'Ko\u0308per', 'Red\u00a0Shirt',
       'RED SHIRT', 'red-', '-', 'a/b/c', 'shirt '*500, '\ud800', '<b>Red</b> &amp; blue']

@pytest.mark.parametrize('lang', ['en', 'de'])
def test_any_text(lang):
    words = find_words(ODD, lang=lang)
    assert words['item'].between(0, len(ODD) - 1).all() and words['pos'].isin(['noun', 'adj']).all()
    assert (words['word'] == words['word'].str.lower()).all() and words['form'].str.len().gt(1).all()

def test_tokens():
    assert _TEXT_TOKEN.findall("Women's T-shirt, navy-blue/white & doesn't 'shrink'") == [
        'Women', "'s", 'T-shirt', ',', 'navy-blue', '/', 'white', '&', 'does', "n't", "'", 'shrink', "'"]
    assert clean_text('A\u0308rmel’s') == "Ärmel's"
    assert clean_texts([None, float('nan'), pd.NA, '']) == (['']*4, [])
    assert [_is_word(o) for o in ('v-neck', 'ärmel', '22l', 'm')] == [True, True, False, False]

def test_missing_texts():
    texts = pd.Series(['Red Shirts', None, float('nan'), pd.NA, ''], index=[7, 3, 3, 1, 0], dtype=object)
    assert find_words(texts)['item'].unique().tolist() == [0]
    assert fit_text_tags(texts, min_count=1).apply(texts) == [['red', 'shirts'], [], [], [], []]

def test_no_items():
    fitted = fit_text_tags(SHOP)
    assert fitted.apply([]) == [] and fitted.apply(['sofa', None]) == [[], []]

def test_composed_letters():
    a, b = find_words(['A\u0308rmel und Kno\u0308pfe', 'Ärmel und Knöpfe'], lang='de').groupby('item')
    assert a[1]['word'].tolist() == b[1]['word'].tolist() == ['ärmel', 'knopf']

def test_what_a_lemmatiser_spoils():
    fitted = fit_text_tags(SHOP)
    assert {'jeans', 'sunglasses', 'shorts', 'trousers', 'leggings', 'flip flops', 'watch', 't-shirt'} <= set(fitted.nouns)
    assert {'navy blue', 'short'} <= set(fitted.adjs)
    assert not {'jean', 'sunglass', 'trouser', 'legging', 'flip', 'flop', 'navy', 'tshirt'} & {*fitted.nouns, *fitted.adjs}
    assert set(fitted.apply(['Navy Blue Shorts'])[0]) == {'navy blue', 'shorts'}

GERMAN = ['Blaues Kleid mit langen Ärmeln', 'Rote Blumenkleider', 'Ein Kleid, rund und blau.']*2

@pytest.mark.parametrize('texts,lang', [(SHOP, 'en'), (GERMAN, 'de')])
def test_no_word_is_added(texts, lang):
    "Each word of a tag begins as a token of its text does, or is another spelling of one."
    for text, tags in zip(texts, fit_text_tags(texts, lang=lang).apply(texts)):
        tokens = [o.lower() for o in _TEXT_TOKEN.findall(text)]
        for o in ' '.join(tags).split(): assert any(t.replace('-', '')[:3] == o.replace('-', '')[:3] for t in tokens), (text, tags)
        assert len(set(tags)) == len(tags)

def test_a_phrase_reaches_over_no_mark():
    words = find_words(['Navy, blue shirt', 'Navy/blue', 'Navy. Blue', 'Navy blue'])
    assert join_phrases(words, ['navy blue']).groupby('item').size().tolist() == [3, 2, 2, 1]

def test_order_and_copies_change_nothing():
    a, b = fit_text_tags(SHOP), fit_text_tags(SHOP[::-1])
    assert (a.idf, set(a.nouns), set(a.adjs), a.names, set(a.phrases)) == (b.idf, set(b.nouns), set(b.adjs), b.names, set(b.phrases))
    assert a.apply(SHOP)[5] == a.apply(SHOP[5:6])[0]

def test_limits():
    fitted = fit_text_tags(SHOP, k=2, n_nouns=3, n_adjs=0)
    assert len(fitted.nouns) == 3 and fitted.adjs == []
    assert all(len(o) <= 2 and set(o) <= set(fitted.nouns) for o in fitted.apply(SHOP))
    with pytest.raises(CatalogError, match='min_count=99'): fit_text_tags(SHOP, min_count=99)
    with pytest.raises(CatalogError, match='k is 0'): fit_text_tags(SHOP, k=0)

def test_train_alone_teaches():
    df = pd.DataFrame({'image': 'x.jpg', 'text': SHOP + ['Purple Sofa']*9, 'split': ['train']*len(SHOP) + ['test']*9})
    tagged, fitted = tag_texts(df)
    assert fitted == fit_text_tags(SHOP) and tagged['tags'][len(SHOP):].tolist() == [[]]*9
    assert 'tags' not in df

def test_nothing_in_the_current_folder_is_unpickled(tmp_path, monkeypatch):
    from catalog_tagger.catalog.text import _hanta
    (tmp_path/'morphmodel_en.pgz').write_bytes(b'not a model')
    monkeypatch.chdir(tmp_path)
    assert _hanta.__wrapped__('en')(['shirts']) == [('shirt', 'noun')]

@pytest.mark.parametrize('broken', ['{', '[]', '{"lang": "en"}'])
def test_broken_files(tmp_path, broken):
    (tmp_path/'t.json').write_text(broken)
    with pytest.raises(CatalogError, match='t.json'): TextTags.load(tmp_path/'t.json')

@pytest.fixture
def nltk_data():
    "A folder where NLTK finds all that its engine needs."
    for o in map(Path, [os.environ.get('NLTK_DATA', '')] + nltk_path):
        if all((o/kind/name).exists() or (o/kind/f'{name}.zip').exists() for name, kind in _NLTK.items()): return o
    pytest.skip("needs NLTK's data: set NLTK_DATA to a folder that has " + ', '.join(_NLTK))

def test_nltk(nltk_data, tmp_path):
    words = find_words(["The women's jeans are own-brand, and a long navy dress doesn't shrink.", '_'], engine='nltk')
    assert words['word'].tolist()[:2] == ['woman', 'jean'] and {'long', 'dress'} <= set(words['word'])
    fitted = fit_text_tags(SHOP, engine='nltk')
    assert {'jeans', 'shorts', 'trousers', 'flip flops'} <= set(fitted.nouns) and 'jean' not in fitted.idf
    fitted.save(tmp_path/'t.json')
    assert TextTags.load(tmp_path/'t.json').apply(SHOP) == fitted.apply(SHOP)

_stem = PorterStemmer().stem
def stems(text): return {_stem(o.lower().replace('-', '')) for o in _TEXT_TOKEN.findall(text)}

@pytest.fixture(scope='module')
def real(data_root):
    "Real titles, 60 % of them train, and the tags they get."
    df = pd.read_csv(data_root/'fashion-product-images'/'styles.csv', dtype=str, keep_default_na=False)
    split = rng(42, 'split').choice(['train', 'valid', 'test'], len(df), p=[.6, .2, .2])
    return tag_texts(df.assign(image='x.jpg', text=df['productDisplayName'], split=split))[0]

def test_the_article_type_of_a_title_is_among_its_tags(real):
    "Where all words of articleType are in the title, singular or plural: are they in its tags? As whole tags: `watch` is not `dial watch`."
    named = real[[stems(a) <= stems(t) for a, t in zip(real['articleType'], real['text'])]]
    within = pd.Series([stems(a) <= stems(' / '.join(o)) for a, o in zip(named['articleType'], named['tags'])], named.index)
    whole = pd.Series([stems(a) in map(stems, o) or stems(a) <= {s for t in o if len(stems(t)) == 1 for s in stems(t)}
                       for a, o in zip(named['articleType'], named['tags'])], named.index)
    unseen = named['split'] != 'train'
    print(f'{len(named)} of {len(real)} titles name their articleType; '
          f'within the tags {within.mean():.3f} (unseen {within[unseen].mean():.3f}), '
          f'as whole tags {whole.mean():.3f} (unseen {whole[unseen].mean():.3f})')
    assert len(named) > 3500 and min(within.mean(), within[unseen].mean(), whole.mean(), whole[unseen].mean()) >= .85

def test_navy_blue_is_one_colour(real):
    navy = real['text'].str.contains('navy blue', case=False)
    has = real['tags'].map(lambda o: 'navy blue' in o)
    assert has[navy].mean() > .9 and not has[~navy].any()
