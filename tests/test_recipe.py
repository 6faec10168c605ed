"What a recipe promises, whatever the tags: it can be repeated, saved, fed in any order, and learns from train alone."
import random

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from catalog_tagger.core.files import CatalogError
from catalog_tagger.catalog.labels import LabelSpace, fit_labels
from catalog_tagger.catalog.steps import normalise, spell
from catalog_tagger.catalog.recipe import Recipe, fit_recipe
from catalog_tagger.catalog.suggest import suggest_groups

STEPS = [dict(step='protect', tags=['kale']), dict(step='normalise'), dict(step='alias', to={'yogurt': ['yoghurt'], 'vegetarian': ['vegan']}), dict(step='lemmatise'),
         dict(step='group', to={'sweets': ['cake', 'pie']}, name='tag_{}_sum'), dict(step='exclude', tags=['yummy']), dict(step='drop_rare', min_count=3), dict(step='keep_top', n=6)]
WORDS = ['Cake', 'cake', 'cakes', '#cakes', 'pie', 'pies', 'vegan', 'Vegan', 'vegetarian', 'yoghurt', 'yogurt', 'yummy', 'kale', 'soup', 'soups', 'rice', 'egg', 'Eggs', 'ham']

def posts(rows):
    folds = ['train', 'train', 'train', 'valid', 'test']
    return pd.DataFrame({'image': [f'{i}.jpg' for i in range(len(rows))], 'tags': rows, 'split': [folds[i % 5] for i in range(len(rows))]})

rows = st.lists(st.lists(st.sampled_from(WORDS), max_size=4), min_size=5, max_size=60)
few = settings(max_examples=40, deadline=None)

@given(st.text())
def test_normalise_is_idempotent(tag): assert normalise(normalise(tag)) == normalise(tag)

@few
@given(rows)
def test_recipe_is_idempotent(rows):
    recipe = fit_recipe(posts(rows), STEPS)
    once = recipe.apply(posts(rows))
    assert recipe.apply(once)['tags'].tolist() == once['tags'].tolist()
    for t in recipe.provenance:
        assert spell(spell(t, recipe.steps['']), recipe.steps['']) == spell(t, recipe.steps['']) or t.startswith('tag_')

@few
@given(rows, st.randoms())
def test_order_is_irrelevant(rows, r):
    df = posts(rows)
    mixed = df.assign(tags=[r.sample(o, len(o)) for o in df['tags']]).sample(frac=1, random_state=r.randrange(999)).reset_index(drop=True)
    assert fit_recipe(df, STEPS) == fit_recipe(mixed, STEPS)

@few
@given(rows)
def test_learns_from_train_alone(rows):
    df = posts(rows)
    other = df.assign(tags=[o if f == 'train' else ['Kiwis', 'cake', 'cakes'] for o, f in zip(df['tags'], df['split'])])
    assert fit_recipe(df, STEPS) == fit_recipe(other, STEPS)

@few
@given(rows)
def test_counts_are_pictures(rows):
    "By plain loops: a picture with `cake` and `pie` counts once."
    recipe, df = fit_recipe(posts(rows), STEPS), posts(rows)
    labels = recipe.apply(df[df['split'] == 'train'].reset_index(drop=True))['tags']
    assert recipe.pictures == {t: sum(t in o for o in labels) for t in sorted({t for o in labels for t in o})}

@few
@given(rows)
def test_refitting_what_was_fitted_changes_nothing(rows):
    recipe = fit_recipe(posts(rows), STEPS)
    again = fit_recipe(posts(rows), recipe.steps[''])
    assert (again.provenance, again.steps) == (recipe.provenance, recipe.steps)

@pytest.fixture
def df():
    r = random.Random(0)
    return posts([r.sample(WORDS, 3) for _ in range(300)])

def test_json_round_trip(df, tmp_path):
    recipe = fit_recipe(df, STEPS)
    recipe.save(tmp_path/'recipe.json')
    assert Recipe.load(tmp_path/'recipe.json') == recipe
    space = fit_labels(df, recipe=recipe)
    space.save(tmp_path/'labels.json')
    assert LabelSpace.load(tmp_path/'labels.json') == space
    assert space.encode(WORDS) == LabelSpace.load(tmp_path/'labels.json').encode(WORDS)

def test_a_tag_of_test_alone_changes_nothing(df):
    i = df.index[df['split'] == 'test'][0]
    more = df.assign(tags=[o + ['Kiwis', '#CAKES!'] if j == i else o for j, o in enumerate(df['tags'])])
    a, b = (fit_labels(o, recipe=fit_recipe(o, STEPS)) for o in (df, more))
    assert (a.vocab, a.parents, a.recipe, a.counts.tolist()) == (b.vocab, b.parents, b.recipe, b.counts.tolist())
    assert b.provenance['Kiwis'] == dict(label=None, count=0, rule='dropped: not in train')

def test_new_spellings_find_their_label(df):
    space = fit_labels(df, recipe=fit_recipe(df, STEPS))
    assert space.encode(['CAKES', ' pies ', 'Ｃake']) == ['tag_sweets_sum']
    assert space.encode(['VEGAN']) == ['vegan'] and space.encode(['YUMMY', 'sofas']) == []

def test_every_rule_is_told(df):
    p = fit_labels(df, recipe=fit_recipe(df, STEPS)).provenance
    assert p['#cakes']['rule'] == 'normalised, lemmatised, grouped' and p['#cakes']['via'] == ['cakes', 'cake']
    assert p['yummy']['rule'] == 'excluded' and p['kale'] | dict(count=0) == dict(label='kale', count=0, rule='kept')

def test_parents_come_in_raw_tags_or_labels(df):
    recipe = fit_recipe(df, STEPS)
    assert fit_labels(df, recipe=recipe, parents={'Cake': 'kale'}).parents == {'tag_sweets_sum': 'kale'}
    with pytest.raises(CatalogError, match='own ancestor'): fit_labels(df, recipe=recipe, parents={'cake': 'kale', 'kale': 'pie'})

def test_suggestions_without_wordnet(df, monkeypatch):
    monkeypatch.setattr('catalog_tagger.catalog.recipe.load_wordnet', lambda: None)
    found = suggest_groups(fit_recipe(df, STEPS).apply(df), np.random.default_rng(0).normal(size=(len(df), 8)))
    assert set(found['source']) <= {'company', 'pictures'} and fit_recipe(df, STEPS).provenance['vegan']['label'] == 'vegan'
