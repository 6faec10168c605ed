"What a recipe promises, whatever the tags: it can be repeated, saved, fed in any order, and learns from train alone."
import random

import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.config import RunConfig
from catalog_tagger.catalog.labels import LabelSpace, _nesting, _rule_chain, fit_labels
from catalog_tagger.catalog.prepare import recipe_steps, split_by_config
from catalog_tagger.catalog.steps import STEPS as KINDS, Option, Step, check_steps, normalise, spell
from catalog_tagger.catalog.recipe import Recipe, fit_recipe
from catalog_tagger.catalog.suggest import suggest_groups

STEPS = [dict(step='protect', tags=['kale']), dict(step='normalise'),
         dict(step='alias', to={'yogurt': ['yoghurt'], 'vegetarian': ['vegan']}), dict(step='lemmatise'),
         dict(step='group', to={'sweets': ['cake', 'pie']}, name='tag_{}_sum'), dict(step='exclude', tags=['yummy']),
         dict(step='drop_rare', min_count=3), dict(step='keep_top', n=6)]
WORDS = ['Cake', 'cake', 'cakes', '#cakes', 'pie', 'pies', 'vegan', 'Vegan', 'vegetarian', 'yoghurt', 'yogurt', 'yummy', 'kale', 'soup',
         'soups', 'rice', 'egg', 'Eggs', 'ham']

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

def test_rules_are_joined_without_kept():
    assert _rule_chain('kept', 'kept') == 'kept'
    assert _rule_chain('normalised, grouped', 'dropped: not in test') == 'normalised, grouped, dropped: not in test'

def test_nesting_is_lambda():
    kind, sex = ['Top']*30 + ['Shoe']*30, ['Men', 'Women']*30
    types = ['Tee']*20 + ['Shirt']*10 + ['Heel']*19 + ['Shirt'] + ['Clog']*10
    def of(parent): return _nesting(pd.DataFrame(dict(child=types, parent=parent)))
    assert of(kind) == pytest.approx((20 + 10 + 19 + 10 - 30)/(60 - 30)) and of(sex) == pytest.approx(0, abs=.11)

def test_parents_come_in_raw_tags_or_labels(df):
    recipe = fit_recipe(df, STEPS)
    assert fit_labels(df, recipe=recipe, parents={'Cake': 'kale'}).parents == {'tag_sweets_sum': 'kale'}
    with pytest.raises(CatalogError, match='own ancestor'): fit_labels(df, recipe=recipe, parents={'cake': 'kale', 'kale': 'pie'})

def test_suggestions_without_wordnet(df, monkeypatch):
    monkeypatch.setattr('catalog_tagger.catalog.recipe.load_wordnet', lambda: None)
    found = suggest_groups(fit_recipe(df, STEPS).apply(df), np.random.default_rng(0).normal(size=(len(df), 8)))
    assert set(found['source']) <= {'company', 'pictures'} and fit_recipe(df, STEPS).provenance['vegan']['label'] == 'vegan'

def test_a_new_step_is_one_entry(df, monkeypatch):
    "Checked, fitted, in provenance by its rule, and taken by spellings that train does not have, by the split and by a saved label space."
    whole = Option('a whole number', lambda o: type(o) is int)
    def first_letters(tag, *, n=4): return tag[:n]
    monkeypatch.setitem(KINDS, 'cut', Step(first_letters, 'the first letters', 'cut short', dict(n=whole), respells=True))
    steps = [dict(step='normalise'), dict(step='cut', n=3), dict(step='drop_rare', min_count=2)]
    recipe = fit_recipe(df, steps); space = fit_labels(df, recipe=recipe)
    assert recipe.provenance['soups'] == dict(label='sou', count=recipe.provenance['soups']['count'], rule='cut short')
    assert 'sou' in space.vocab
    assert space.encode(['SOUPLESS']) == ['sou'] and spell('SOUPLESS', steps) == 'sou'
    assert 'sou' in set(split_by_config(df.drop(columns='split'), RunConfig('shop', 'run'), steps)[1]['tag'])
    for bad, why in ((dict(n='3'), "n is '3', expected a whole number"), (dict(m=3), "cut has no option 'm'; its options are n, columns"),
                     (dict(keep='soup'), "keep is 'soup', expected a list of tags")):
        with pytest.raises(CatalogError, match=why): check_steps([dict(step='cut', **bad)])

def test_a_new_step_that_counts(df, monkeypatch):
    monkeypatch.setitem(KINDS, 'drop_common',
                        Step(lambda counts, *, most: {t: None for t, n in counts.items() if n > most}, 'too many',
                             'dropped: {count} of {most}', {}))
    n = fit_recipe(df, []).pictures
    for t, o in fit_recipe(df, [dict(step='drop_common', most=50)]).provenance.items():
        assert o['rule'] == (f'dropped: {n[t]} of 50' if n[t] > 50 else 'kept')
    with pytest.raises(CatalogError, match='comes after drop_common'):
        check_steps([dict(step='drop_common', most=50), dict(step='normalise')])

def test_the_split_spells_behind_a_protect():
    rows = [['Vegan', 'KALE'], ['vegan', '#soup'], ['VEGAN', 'kale'], ['soup', 'KALE']]*8
    def tags(*steps): return set(split_by_config(posts(rows).drop(columns='split'), RunConfig('shop', 'run'), [*steps])[1]['tag'])
    protect, spelling, later = dict(step='protect', tags=['KALE']), dict(step='normalise'), dict(step='alias', to={'broth': ['soup']})
    assert tags(spelling, later) == {'vegan', 'kale', 'soup'}
    assert tags(protect, spelling, later) == {'vegan', 'kale', 'KALE', 'soup'}
    assert tags(protect, dict(step='lemmatise'), spelling) == tags(protect) == {t for o in rows for t in o}   # lemmatise learns from train

@pytest.mark.parametrize('step', [dict(step='keep_top', n=o) for o in ('3', -1, 0, True, 2.5, None, [3])] + [
    dict(step='drop_rare', min_count='2'), dict(step='protect', tags='kale'), dict(step='exclude', tags=[1]),
    dict(step='alias', to={'a': 'bc'}), dict(step='alias', to=[['a', 'b']]), dict(step='alias', to={'a': ['b'], 'b': ['a']}),
    dict(step='group', to={'a': ['b'], 'b': ['c'], 'c': ['a']}), dict(step='group', to={'a': ['b']}, name='tag'),
    dict(step='normalise', form='NFX'), dict(step='normalise', seps=None), dict(step='normalise', case='no'),
    dict(step='lemmatise', lang=3), dict(step='lemmatise', allow='kale'), dict(step=['normalise']), 'normalise', None], ids=str)
def test_a_wrong_step_is_refused_with_a_sentence(step):
    with pytest.raises(CatalogError, match='^step 1 is .*: .'): check_steps([dict(step='normalise'), step])

def told(rows, *steps, **kw): return fit_recipe(pd.DataFrame({'image': 'x', 'tags': rows, 'split': 'train'}), list(steps), **kw).unmet

SHOP = [['dress', 'red'], ['skirt', 'blue'], ['trousers', 'red'], ['shoe', 'blue']]*5

@pytest.mark.parametrize('step, says', [
    (dict(step='exclude', tags=['reed']), "step exclude of the recipe: 'reed' is in no train picture, did you mean 'red'?"),
    (dict(step='exclude', tags=['red', 'REED']), "step exclude of the recipe: 'REED' is in no train picture, did you mean 'red'?"),
    (dict(step='alias', to={'gown': ['dres']}), "step alias of the recipe: 'dres' is in no train picture, did you mean 'dress'?"),
    (dict(step='group', to={'x': ['hat', 'Shoes', 'dress']}),
     "step group of the recipe: 2 of 3 names have no effect, such as 'Shoes', which is in no train picture, did you mean 'shoe'?"),
    (dict(step='protect', tags=['kale']), "step protect of the recipe: 'kale' is in no train picture"),
    (dict(step='normalise', keep=['Blu']), "step normalise of the recipe: 'Blu' is in no train picture, did you mean 'blue'?"),
    (dict(step='lemmatise', allow=['trouser']), "step lemmatise of the recipe: 'trouser' is in no train picture, did you mean 'trousers'?"),
    (dict(step='keep_top', n=9), 'step keep_top of the recipe changes nothing in the free tags'),
    (dict(step='exclude', tags=[]), 'step exclude of the recipe changes nothing in the free tags')], ids=str)
def test_a_name_without_effect_is_told_with_the_nearest_spelling(step, says): assert told(SHOP, step) == [says]

def test_what_an_earlier_step_did_to_a_name_is_told():
    rare, protect = dict(step='drop_rare', min_count=8), dict(step='protect', tags=['red'])
    assert told(SHOP, rare, dict(step='exclude', tags=['dress'])) == ["step exclude of the recipe: 'dress' is dropped by an earlier step"]
    assert told(SHOP, protect, dict(step='exclude', tags=['red'])) == ["step exclude of the recipe: 'red' is protected by an earlier step"]
    assert told(SHOP, protect, rare) == [] and told(SHOP, dict(step='exclude', tags=['red', 'dress'])) == []

def test_a_label_of_a_column_is_not_missed():
    rows = [['type=Dress', 'red'], ['type=Skirt', 'blue']]*3
    step = dict(step='exclude', tags=['dress'])
    assert told(rows, step, groups=['type']) == ["step exclude of the recipe: 'dress' is in no train picture, but a label of type: "
                                                 "add 'type' to the columns of the step"]
    assert told(rows, step | dict(tags=['Dress'], columns=['', 'type']), groups=['type']) == []
    assert told([['type=Dress']]*3, dict(step='drop_rare', min_count=2), groups='type') == [
        'step drop_rare of the recipe changes nothing in the free tags; the label columns are type: name them in the columns of the step']

@pytest.mark.parametrize('steps, says', [
    ([dict(step='group', to={'clothes': ['dress', 'skirt']}), dict(step='group', to={'bottom': ['skirt']})],
     "group names 'skirt', but the earlier steps change it to 'clothes': write 'clothes'"),
    ([dict(step='group', to={'clothes': ['dress']}), dict(step='exclude', tags=['dress'])], "exclude names 'dress', but .* 'clothes'"),
    ([dict(step='group', to={'clothes': ['dress']}), dict(step='drop_rare', min_count=1, keep=['dress'])], "drop_rare names 'dress', but"),
    ([dict(step='group', to={'x': ['dress']}), dict(step='group', to={'dress': ['skirt']}), dict(step='group', to={'skirt': ['x']})],
     "the steps change 'dress' to 'skirt', and 'skirt' to 'dress'"),
    ([dict(step='group', to={'dress': ['skirt'], 'skirt': ['shoe']})], "the steps change 's.*' to '.*', and 's.*' to 'dress'"),
    ([dict(step='group', to={'dress': ['skirt'], 'skirt': ['shoe'], 'shoe': ['dress']})], 'is renamed in a circle')])
def test_labels_that_change_places_are_an_error(steps, says):
    with pytest.raises(CatalogError, match=says): told(SHOP, *steps)

def test_steps_that_lead_back_to_a_name_are_none():
    assert told(SHOP, dict(step='group', to={'x': ['dress', 'skirt']}), dict(step='group', to={'dress': ['x']})) == []

@pytest.mark.parametrize('name, kind', [(s, o) for s, kind in KINDS.items() for o in [*kind.options, 'keep', 'allow', 'columns']])
def test_an_option_of_another_type_is_refused_in_every_step(name, kind):
    needed = dict(alias=dict(to={}), group=dict(to={}), drop_rare=dict(min_count=1), keep_top=dict(n=1), exclude=dict(tags=[]),
                  protect=dict(tags=[])).get(name, {})
    more = ['red'] if kind in ('form', 'seps', 'lang', 'name') else 'red', {'a': 1} if kind == 'names' else {'a': 'b'}
    for bad in (1.5, None, b'x', *more, [1], [['red']], {'': ['a']}, {1: ['a']}):
        with pytest.raises(CatalogError, match=f'^step 0 is .*: {kind} is .*, expected '):
            check_steps([{'step': name, **needed, kind: bad}])

@pytest.mark.parametrize('n', ['3', -1, 0, 1.5, True, None, [3], 3.])
def test_counts_have_a_range(n):
    for step in (dict(step='keep_top', n=n), dict(step='drop_rare', min_count=n)):
        with pytest.raises(CatalogError, match='expected a whole number, 1 or more'): check_steps([step])

@pytest.mark.parametrize('step, says', [
    (dict(step='exlude', tags=[]), "did you mean 'exclude'?"), (dict(step='exclude', tag=['a']), "no option 'tag', did you mean 'tags'?"),
    (dict(step='exclude'), "the option 'tags' is missing"), (dict(step='normalise', columns=[]), "expected a list of label columns"),
    (dict(step='alias', to={' ': ['a']}), 'expected names')])
def test_what_a_step_lacks_is_named(step, says):
    with pytest.raises(CatalogError) as e: check_steps([step])
    assert says in str(e.value)

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_name_that_a_recipe_has_twice_is_an_error(encoding, tmp_path):
    "JSON keeps the last of two equal keys, so that half of a group would be lost."
    cfg = RunConfig('shop', 'run', recipe=str(tmp_path/'recipe.json'))
    (tmp_path/'recipe.json').write_text('[{"step": "group", "to": {"x": ["dress"], "y": ["a"], "x": ["skirt"]}}]', encoding)
    with pytest.raises(CatalogError, match="recipe.json is not readable JSON: duplicate key 'x'"): recipe_steps(cfg)
    (tmp_path/'recipe.json').write_text('[{"step": "group", "to": {"x": ["dress", "skirt"]}}]', encoding)
    assert recipe_steps(cfg)[1]['to'] == {'x': ['dress', 'skirt']}
