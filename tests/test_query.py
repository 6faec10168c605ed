"Conditions that choose rows: against a plain Python loop, and never as code."
import operator
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from catalog_tagger.catalog.query import choose_rows
from catalog_tagger.core.files import CatalogError

ROWS = [  # year, price, colour, size in EU, sold
    (2011, 1.5, 'Red', 'M', True), (2012, float('nan'), 'Blue', None, False), (2012, -3., "it's", '`x`', True),
    (2016, 0., None, 'a & b', True)]
COLUMNS = ['year', 'price', 'colour', 'size in EU', 'sold']
TABLE = pd.DataFrame(ROWS, columns=COLUMNS)
NUMBERS, TEXTS = ['year', 'price'], ['colour', 'size in EU']
OPERATORS = {'==': operator.eq, '!=': operator.ne, '<': operator.lt, '<=': operator.le, '>': operator.gt, '>=': operator.ge}

def quoted(name): return name if name.isidentifier() else f'`{name}`'

def holds(sign, a, b):
    "One comparison in one row, in which an empty cell differs from everything."
    if a is None or a != a: return sign == '!='
    return OPERATORS[sign](a, b)

@st.composite
def comparisons(draw):
    "The text of one comparison, and the function of a row that says the same."
    kind = draw(st.sampled_from(['number', 'text', 'chain', 'list', 'flag']))
    if kind == 'number':
        name, sign = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(list(OPERATORS)))
        value = draw(st.sampled_from([2011, 2012, 0, 1.5, -3]))
        return f'{name} {sign} {value}', lambda row: holds(sign, row[name], value)
    if kind == 'text':
        name, sign = draw(st.sampled_from(TEXTS)), draw(st.sampled_from(['==', '!=']))
        value = draw(st.sampled_from(['Red', "it's", '`x`', 'a & b', '']))
        return f'{quoted(name)} {sign} {value!r}', lambda row: holds(sign, row[name], value)
    if kind == 'chain':
        low, high = draw(st.sampled_from([2010, 2011])), draw(st.sampled_from([2011, 2012, 2016]))
        return f'{low} < year <= {high}', lambda row: low < row['year'] <= high
    if kind == 'list':
        name, values = draw(st.sampled_from(TEXTS)), draw(st.lists(st.sampled_from(['Red', 'Blue', '`x`', 'M']), max_size=3))
        no = draw(st.booleans())
        return f'{quoted(name)} {"not in" if no else "in"} {values!r}', lambda row: (row[name] in values) != no
    return 'sold', lambda row: row['sold']

def joined(parts):
    "`and`, `or`, `not` and their signs over the conditions of `parts`; in brackets, for signs bind as words do."
    two = st.tuples(parts, st.sampled_from(['and', 'or', '&', '|']), parts).map(lambda o: (
        f'({o[0][0]}) {o[1]} ({o[2][0]})',
        (lambda row: o[0][1](row) and o[2][1](row)) if o[1] in ('and', '&') else (lambda row: o[0][1](row) or o[2][1](row))))
    no = st.tuples(st.sampled_from(['not', '~']), parts).map(lambda o: (f'{o[0]} ({o[1][0]})', lambda row: not o[1][1](row)))
    return two | no

@settings(max_examples=300, deadline=None)
@given(st.recursive(comparisons(), joined, max_leaves=6))
def test_conditions_against_a_plain_loop(condition):
    text, says = condition
    want = [i for i, row in enumerate(ROWS) if says(dict(zip(COLUMNS, row)))]
    if want: assert choose_rows(TABLE, text).index.tolist() == want
    else:
        with pytest.raises(CatalogError, match='leaves none of 4 rows'): choose_rows(TABLE, text)

@pytest.mark.parametrize('where, want', [
    ('year > 2011 & sold', [2, 3]), ('year == 2011 | year == 2016 & colour != "Red"', [0, 3]),                # & and | bind as the words do
    ('year == [2011, 2016]', [0, 3]), ('year != (2011, 2016)', [1, 2]), ("'Red' == colour", [0]), ('-year < -2012', [3]),
    ('price != price', [1]), ("`size in EU` == '`x`'", [2]), ('`size in EU` == """a & b"""', [3]), ("colour == 'it\\'s'", [2]),
    ('  year > 2012  # the last', [3]), ('2010 < year < 2013 and not (sold and price > 0)', [1, 2])])
def test_what_pandas_takes_too(where, want):
    assert choose_rows(TABLE, where).index.tolist() == want

@pytest.mark.parametrize('where', [
    "colour == '`colour.to_csv(\"f\")`'", "colour in ['`colour.to_csv(\"f\")`']", "`colour.to_csv('f')` == 1",
    "colour == 'a' or `colour`.to_csv('f')",
    "colour.to_csv('f') == 1", "[o.to_csv('f') for o in [colour]]", '@pd.io', "__import__('os').mkdir('f')", "f'{colour.to_csv(1)}' == 1",
    'year := 3',
    '`year', "colour == 'Red", "(lambda: 1)() == 1", 'year if sold else year', 'year + 1 > 3', 'year is 3', 'colour[0] == 1', '*year', '',
    '(' * 300])
def test_a_condition_never_runs_code(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CatalogError, match='not a valid condition on the columns|leaves none'): choose_rows(TABLE, where)
    assert not list(tmp_path.iterdir())

def test_a_placeholder_is_never_a_column():
    df = pd.DataFrame({'_0': [1, 2], 'my column': [2, 1]})
    assert choose_rows(df, '_0 == 1 and `my column` == 2').index.tolist() == [0]
    with pytest.raises(CatalogError, match="name 'column' is not defined"): choose_rows(df, '`column` == 2')
