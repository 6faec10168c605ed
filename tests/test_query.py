"Conditions that choose rows: against a plain Python loop, and never as code."
import operator, re
from datetime import date
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st

from catalog_tagger.catalog.query import choose_rows, comparable
from catalog_tagger.catalog.split import split_by
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
    "One comparison in one row, in which an empty cell is '' among texts and differs from all numbers."
    if isinstance(b, str): a = a or ''
    elif a is None or a != a: return sign == '!='
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
        name, values = draw(st.sampled_from(TEXTS)), draw(st.lists(st.sampled_from(['Red', 'Blue', '`x`', 'M', '']), max_size=3))
        no = draw(st.booleans())
        return f'{quoted(name)} {"not in" if no else "in"} {values!r}', lambda row: ((row[name] or '') in values) != no
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

# Cells are text

def column(cells): return pd.DataFrame({'x': cells.split('|') if isinstance(cells, str) else cells})

@pytest.mark.parametrize('cells, where, want', [
    ('2011|2013|', 'x > 2012', [1]), ('9|10|100', 'x > 9', [1, 2]), (' 9 |10', 'x < 10', [0]), ('2011.0|2013', 'x == 2011', [0]),
    ('0100|100|7', 'x == 100', [0, 1]), ('0100|100|7', "x == '100'", [1]), ('0100|100|7', "x == '0100'", [0]),
    ('1100|7', 'x in [1100, 5]', [0]), ('1100|A7', "x in ['A7', '5']", [1]), ('1100|7|', 'x != 7', [0, 2]),
    ('1100|7|', 'x not in [7]', [0, 2]),
    ('1100|7|', "x == ''", [2]), ('1100|7|', "x != ''", [0, 1]), ('49,90|7|0,125', 'x < 8', [1, 2]), ('49,90|120,00', "x > '100'", [1]),
    ('-5|3|-10', 'x < -4', [0, 2]), ('-5|3|-10', '-x > 4', [0, 2]), ('5|9|12', '5 < x <= 12', [1, 2]), ('9|10', '10 == x', [1]),
    ('9|10', "x >= '10'", [1]), ('100000000000000001|100000000000000002', 'x == 100000000000000002', [1]),
    ('2016-01-31|2016-10-01|', "x >= '2016-02-01'", [1]), ('2016-1-31|2016-10-01|', "x < '2016-9-1'", [0]),
    ('2016-01-31|2017-10-01', "x < '2017'", [0]), ('2016/01/31|2017/10/01', "x < '2017'", [0]),
    ('2016-01-31T10:00:00|2016-01-31T09:00:00', "x > '2016-01-31T09:30:00'", [0]), ('2015Q4|2016Q1', "x >= '2016Q1'", [1]),
    ('31/12/2016|01/02/2017', "x > '31/12/2016'", [1]), ('31/12/2016|01/02/2017', "x >= '2017'", [1]),
    ('12.31.2016|02.01.2017', "x < '2016-12-31'", []), ('12.31.2016|02.01.2017', "x <= '12.31.2016'", [0]),
    ('31-12-2016||1-2-2017', "x > '2017-01-15'", [2]), ('SS9|SS10|SS11', "x >= 'SS10'", [1, 2]), ('SS09|SS10', "x > 'SS9'", [1]),
    ('50%|100%', "x > '60%'", [1]), ('9:30|10:15', "x < '10:00'", [0]), ('TRUE|False|', 'x == True', [0]),
    ('TRUE|False|', 'x != True', [1, 2]),
    ('TRUE|false', 'x', [0]), ('TRUE|false', 'not x', [1]), ('TRUE|false|', "x == 'TRUE'", [0]),
    ([2011, 2013], 'x > 2012', [1]), ([2011, 2013], "x == '2013'", [1]),
    ([2011, 2013], "x >= '2012'", [1]),        # numbers, as in a table made in Python
    ([2011., np.nan, 2013.], "x == '2013'", [2]), ([2011, None, 2013], 'x != 2011', [1, 2]), ([True, False], 'x == True', [0]),
    (pd.array([2011, None, 2013], dtype='Int64'), 'x > 2012', [2]), (pd.array([2011, None, 2013], dtype='Int64'), 'x != 2013', [0, 1]),
    (pd.array([True, None], dtype='boolean'), 'not x', [1]), (pd.to_datetime(['2016-01-31', None]), "x >= '2016'", [0]),
    (pd.Categorical(['9', '10']), 'x > 9', [1]), (['', '', ''], 'x != 3', [0, 1, 2])])
def test_cells_are_read_where_they_are_compared(cells, where, want):
    if want: assert choose_rows(column(cells), where).index.tolist() == want
    else:
        with pytest.raises(CatalogError, match='leaves none'): choose_rows(column(cells), where)

NO_ORDER = 'no known order; name the values instead'

@pytest.mark.parametrize('cells, where, why', [
    ('12|n/a|14', 'x > 13', "'n/a' is not a number; correct such cells, or write the value in quotes"),
    ('12|on request', 'x == 12', 'not a number'),
    ('1E5|2', 'x > 1', "'1E5' is not a number"), ('inf|2', 'x > 1', 'not a number'), ('nan|2', 'x > 1', 'not a number'),
    ('12 €|9 €', 'x > 10', "'12 €' is not a number"), ('٣|2', 'x > 1', 'not a number'), ('1 000|2', 'x > 1', 'not a number'),
    ('1.299,00|49,90', 'x > 50', "'1.299,00' is not a number"), ('49,90|1.5', 'x > 2', "'49,90' has a comma and '1.5' a point"),
    ('1,299|2,499', 'x > 2', "'1,299' may mean 1.299 or 1299; write numbers with a decimal point"),
    ('49,90|1,299', 'x > 2', "'1,299' may mean"),
    ('2016-05-31|2017', 'x > 2016', "'2016-05-31' is not a number"), ('SS9|SS10', 'x > 9', "'SS9' is not a number"),
    ('12|14', "x > 'soon'", "'soon' is not a number"),
    ('2016-05-31|2017-01-01', "x > 'soon'", "it is not like its cells, such as '2016-05-31'"),
    ('2016|2017', "x >= '2016-05'", "'2016-05' is not a number"), ('2016-05-31|2017-01', "x > '2016'", NO_ORDER),
 
      ('01/02/2016|03/04/2016', "x > '2016'",
     "'01/02/2016' may have the day or the month first, and no cell shows which; write dates as 2016-12-31"),
    ('31/12/2016|12/31/2016', "x > '2016'", "'31/12/2016' has the day first, '12/31/2016' the month"),
    ('31/12/2016|01/02/2016', "x > '12/31/2016'", 'is not a date with the day first'), ('45/12/2016|1/1/2016', "x > '2016'", 'not a date'),
    ('31/12/2016|01/02/2016', "x > 'May'", "'May' is not a date"), ('31/12/2016|2016-12-31', "x > '2016'", NO_ORDER),
    ('31/12/2016|soon', "x > '2016'", NO_ORDER), ('31/12/16|01/02/17', "x > '01/01/17'", NO_ORDER),
    ('05/2016|12/2015', "x > '12/2015'", NO_ORDER),
    ('Q1 2016|Q4 2015', "x > 'Q4 2015'", NO_ORDER), ('S|M|L', "x > 'M'", NO_ORDER),
    ('SS16|AW16', "x >= 'AW16'", "'SS16' and 'AW16' have " + NO_ORDER),
    ('SS9|10', "x > 'SS9'", NO_ORDER), ('-5 °C|-10 °C', "x > '-7 °C'", NO_ORDER), ('1.5 kg|12.5 kg', "x > '2.0 kg'", NO_ORDER),
    ('yes|no', 'x == True', "'yes' is neither true nor false"), ('1|0', 'x == True', "'1' is neither true nor false"),
    ('yes|no', 'x', 'not true or false for each row'), ('TRUE|', 'x', 'not true or false for each row'),
    ('a|b', '-x > 1', "'a' is not a number"),
    ('12|', 'x == None', "an empty cell is ''"), ('12|14', 'x > [12]', 'Gt is not allowed'), ([1.5, 2.5], "x > 'SS9'", 'not a number')])
def test_what_is_not_certain_is_refused_in_one_sentence(cells, where, why):
    with pytest.raises(CatalogError) as e: choose_rows(column(cells), where)
    assert why in str(e.value) and where in str(e.value) and '\n' not in str(e.value)
    if re.search('[<>]', where) and 'allowed' not in why and '-x' not in where: assert "column 'x' cannot be compared with" in str(e.value)

@pytest.mark.parametrize('a, b, want', [
    ('9|10|2', '10|9|2', [1]), ('1,5|2', '1,6|1', [1]), ('31/12/2016|01/02/2017', '01/01/2017|01/01/2017', [1]), ('9|10', [10, 9], [1])])
def test_columns_are_compared_with_columns(a, b, want):
    df = column(a).assign(y=column(b)['x'])
    assert choose_rows(df, 'x > y').index.tolist() == want
    assert choose_rows(df, 'not x <= y').index.tolist() == want

def test_columns_that_cannot_be_compared():
    df = pd.DataFrame({'x': ['9', '10'], 'y': ['49,90', '1.5']})
    with pytest.raises(CatalogError, match="column 'x' cannot be compared with column 'y': '49,90' has a comma"): choose_rows(df, 'x > y')
    assert choose_rows(df.assign(z=['9', '1']), 'x == z').index.tolist() == [0]

@given(st.lists(st.decimals(-10**6, 10**6, places=2), min_size=2, max_size=8), st.booleans())
def test_numbers_keep_their_order(numbers, comma):
    cells = [str(o).replace('.', ',') if comma else str(o) for o in numbers]
    values, least = comparable(pd.Series(cells, name='x'), float(numbers[0]))
    assert (values >= least).tolist() == [o >= numbers[0] for o in numbers]

@given(st.lists(st.dates(date(1900, 1, 1), date(2100, 1, 1)), min_size=2, max_size=8),
       st.sampled_from(['%d/%m/%Y', '%m.%d.%Y', '%Y-%m-%d', '%Y%m%d']))
def test_dates_keep_their_order_or_are_refused(dates, form):
    cells = [o.strftime(form) for o in dates]
    shown = form.startswith('%Y') or max(o.day for o in dates) > 12
    if shown:
        values, least = comparable(pd.Series(cells, name='x'), cells[0])
        assert (values >= least).tolist() == [o >= dates[0] for o in dates]
    else:
        with pytest.raises(CatalogError, match='may have the day or the month first'): comparable(pd.Series(cells, name='x'), cells[0])

# A split by a column reads it alike

@pytest.mark.parametrize('cells, start, test', [
    (['31/12/2015', '01/06/2016'], '2016-01-01', [1]), (['31/12/2015', '01/06/2016'], date(2016, 1, 1), [1]),
    (['SS9', 'SS10'], 'SS10', [1]),
    (['2015', '2016'], 2016, [1]), (['2015', '2016'], '2016', [1]), ([2015, 2016], '2016', [1]), (['2015', ''], 2015, [0]),
    (['2015-05', '2016-05'], '2016', [1]), (['9', '10'], '10', [1])])
def test_a_split_by_a_column(cells, start, test):
    df = pd.DataFrame({'image': [f'{i}.jpg' for i in range(60)], 'tags': [['a']]*60, 'when': cells*30})
    assert set(df.index[split_by(df, 'when', test_from=start)[0]['split'] == 'test'] % 2) == set(test)

@pytest.mark.parametrize('cells, start, why', [
    (['01/02/2016', '03/04/2016'], '2016', 'may have the day or the month first'), (['SS16', 'AW16'], 'SS16', 'no known order'),
    (['2015', 'soon'], 2015, "'soon' is not a number"), (['9', '10'], '11', "no value from 11 on; its last value is '10'"),
    (['', ''], 5, 'all its cells are empty')])
def test_a_split_by_a_column_without_order_is_refused(cells, start, why):
    df = pd.DataFrame({'image': [f'{i}.jpg' for i in range(60)], 'tags': [['a']]*60, 'when': cells*30})
    with pytest.raises(CatalogError, match="column 'when'") as e: split_by(df, 'when', test_from=start)
    assert why in str(e.value)
