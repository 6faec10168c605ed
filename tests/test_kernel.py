"Plots in a real Jupyter kernel, whose figures come and go in another way than those of a script."
import nbformat, pytest
from nbclient import NotebookClient

SETUP = '''import numpy as np
from catalog_tagger.report.plots import bar_columns, picture_grid
pictures = [np.full((8, 8, 3), o, np.uint8) for o in (50, 150)]'''

@pytest.fixture(scope='module')
def figures():
    "How many figures each cell shows, run in their order in one kernel."
    cells = [SETUP, 'picture_grid(pictures);',    # the first plot of the notebook is one of ours
             'import matplotlib.pyplot as plt; plt.plot([1, 2]);', 'picture_grid(pictures)', 'fig = picture_grid(pictures)',
             'plt.plot([2, 1]);', 'fig', 'for o in (1, 2): picture_grid(pictures)', 'plt.rcParams["text.color"]']
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in cells])
    NotebookClient(nb, timeout=120, kernel_name='python3').execute()
    return {c.source: (sum('image/png' in o.get('data', {}) for o in c.outputs), c.outputs) for c in nb.cells}

@pytest.mark.parametrize('cell, n', [('picture_grid(pictures);', 1), ('import matplotlib.pyplot as plt; plt.plot([1, 2]);', 1),
    ('picture_grid(pictures)', 1), ('fig = picture_grid(pictures)', 1), ('plt.plot([2, 1]);', 1), ('fig', 1),
    ('for o in (1, 2): picture_grid(pictures)', 2)])
def test_each_figure_is_shown_once(figures, cell, n): assert figures[cell][0] == n

def test_settings_of_the_notebook_stay(figures): assert "'black'" in str(figures['plt.rcParams["text.color"]'][1])
