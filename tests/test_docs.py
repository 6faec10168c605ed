"The documentation site: it builds from all notebooks, tells every parameter, finds words, and leads nowhere that is not there."
import json, re, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.nbdev
root = Path(__file__).resolve().parents[1]

class Page(HTMLParser):
    "The anchors of a page, its links, what it fetches, and its text."
    def __init__(self, path):
        super().__init__(); self.ids, self.links, self.fetched, self.text = set(), [], [], ''
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        d = dict(attrs)
        if 'id' in d: self.ids.add(d['id'])
        if tag == 'a' and 'href' in d: self.links.append(d['href'])
        if tag in ('script', 'img', 'iframe') and 'src' in d: self.fetched.append(d['src'])
        if tag == 'link' and d.get('rel') in ('stylesheet', 'icon'): self.fetched.append(d['href'])

    def handle_data(self, data): self.text += data

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The folder of the site and its pages by name; without the page of what is not found, whose links have no place to start from."
    to = tmp_path_factory.mktemp('site')
    r = subprocess.run([sys.executable, root/'scripts'/'docs.py', to], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert r.returncode == 0, r.stdout
    return to, {p.relative_to(to).as_posix(): Page(p) for p in to.rglob('*.html') if p.name != '404.html'}

def test_every_notebook_has_a_page(site):
    _, pages = site
    assert {p.relative_to(root/'nbs').with_suffix('.html').as_posix() for p in (root/'nbs').rglob('[!.]*.ipynb')} <= set(pages)

def test_docments(site):
    "Each exported name has its anchor, and each parameter its meaning."
    _, pages = site
    sources = [''.join(c['source']) for c in json.loads((root/'nbs'/'core'/'07_metrics.ipynb').read_text(encoding='utf-8'))['cells']]
    names = {n for o in sources if o.startswith('#| export') for n in re.findall(r'^def ([a-z]\w+)\(', o, re.M)}
    assert len(names) > 8 and names <= pages['core/07_metrics.html'].ids
    text = re.sub(r'\s+', ' ', pages['catalog/readers/00_base.html'].text)
    assert 'parameter type default meaning' in re.sub(r'\s+', ' ', pages['catalog/04_read.html'].text)
    assert 'min_count int Smallest number of rows with a tag returns tuple[pd.DataFrame, pd.DataFrame] The remaining rows' in text
    assert {'RunConfig', 'find_preset'} <= pages['core/05_config.html'].ids
    assert 'The same seed gives the same result on one machine' in pages['core/05_config.html'].text   # a field of a dataclass
    assert {'LabelSpace', 'LabelSpace.encode'} <= pages['catalog/11_labels.html'].ids                      # a patched method

def test_nothing_hidden_is_shown(site):
    _, pages = site
    shown = [f for f, p in pages.items() if re.search(r'nbdev_export\(\)\s*$|^#\s*\|', p.text, re.M) and f != 'CONTRIBUTING.html']
    assert not shown
    assert 'IN_TEST' not in pages['tutorials/own_catalog.html'].text

def test_no_dead_link(site):
    to, pages = site
    dead = []
    for f, p in pages.items():
        for o in p.links:
            url = urlsplit(o)
            if url.scheme or url.netloc: continue
            target = (to/f).parent.joinpath(unquote(url.path)).resolve() if url.path else to/f
            if target.is_dir(): target = target/'index.html'
            name = target.relative_to(to.resolve()).as_posix() if target.is_relative_to(to.resolve()) else ''
            if not target.is_file() or url.fragment and name in pages and unquote(url.fragment) not in pages[name].ids: dead.append((f, o))
    assert not dead
    # a name in prose leads to its place
    assert sum(o.endswith('core/00_files.html#CatalogError') for o in pages['catalog/00_query.html'].links)

def test_search_and_no_network(site):
    to, pages = site
    index = json.loads((to/'search'/'search_index.json').read_text(encoding='utf-8'))
    assert 'core/07_metrics.html#recall_at_k' in {o['location'] for o in index['docs']}
    assert not [o for p in pages.values() for o in p.fetched if urlsplit(o).netloc]
