"The recipe of the page on similar products, run where Qdrant's client is installed: its answers are those of `search`."
import numpy as np, pandas as pd, pytest

from catalog_tagger.search.index import SimilarIndex

@pytest.fixture(scope='module')
def index():
    v = np.random.default_rng(0).normal(size=(300, 16)); v = (v/np.linalg.norm(v, axis=1, keepdims=True)).astype('f4')
    return SimilarIndex.build(v,
                              pd.DataFrame(dict(image=[f'{i}.jpg' for i in range(300)], articleType=['Tshirts', 'Shoes', None]*100,
                                                labels=[['Tshirts', 'Blue'], ['Shoes'], []]*100)))

def test_qdrant(index, tmp_path):
    qdrant = pytest.importorskip('qdrant_client', reason='the recipe needs qdrant-client'); models = qdrant.models
    client = qdrant.QdrantClient(path=str(tmp_path/'q'))
    client.create_collection('shop', vectors_config=models.VectorParams(size=16, distance=models.Distance.COSINE))
    rows = index.table.astype(object).where(index.table.notna(), None).to_dict('records')
    client.upload_collection('shop', vectors=index.vectors.astype('float32'), payload=rows, ids=range(len(index)))
    client.close(); client = qdrant.QdrantClient(path=str(tmp_path/'q'))    # it stays on disk
    only = models.Filter(must=[models.FieldCondition(key='articleType', match=models.MatchValue(value='Tshirts'))])
    for i in (0, 7, 100):
        for where, want in ((None, index.search(index.vectors[i], 5)),
                            (only, index.search(index.vectors[i], 5, where="articleType == 'Tshirts'"))):
            got = client.query_points('shop', query=index.vectors[i].tolist(), limit=5, query_filter=where).points
            assert [o.payload['image'] for o in got] == want['image'].tolist()
            assert np.allclose([o.score for o in got], want['score'], atol=1e-3)
    client.close()

def test_parquet(index, tmp_path):
    pytest.importorskip('pyarrow', reason='Parquet needs pyarrow')
    index.table.assign(vector=list(index.vectors)).to_parquet(tmp_path/'shop.parquet')
    back = pd.read_parquet(tmp_path/'shop.parquet')
    np.testing.assert_array_equal(np.stack(back['vector']), index.vectors)
