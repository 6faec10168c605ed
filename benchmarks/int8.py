"""What 8 bits cost and bring in ONNX, and whether Learner, Predictor, Tagger and graph answer alike.

    python benchmarks/int8.py [DATA] [--n N] [--size PX]

A head is trained on EfficientNet-Lite0 on N pictures of DATA/fashion-product-images (DATA is the argument or
CATALOG_TAGGER_DATA), of the demo catalog without. The test fold, at most 400 pictures, goes through each graph in
batches of 20 on one thread, in three turns that take the graphs in order; speeds are ratios of medians to the float
graph."""
import argparse, os, tempfile
from pathlib import Path
from time import perf_counter

import numpy as np, onnx, onnxruntime, torch
from fastai.vision.all import set_seed
from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from catalog_tagger.train.activations import cached_learner
from catalog_tagger.train.data import catalog_dls
from catalog_tagger.testing.demo import demo_styles
from catalog_tagger.catalog.images import audit_images
from catalog_tagger.catalog.read import read_catalog
from catalog_tagger.catalog.labels import apply_labels, fit_labels
from catalog_tagger.train.learner import catalog_learner
from catalog_tagger.core.metrics import recall_at_k
from catalog_tagger.train.backbones import arch_prep
from catalog_tagger.serve.answers import as_matrix, decode
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.catalog.split import split_catalog
from catalog_tagger.serve.onnx import _Batches, export_onnx, quantise_onnx
from catalog_tagger.serve.tagger import Tagger, save_bundle

def trained(data:str|None, n:int, size:int, tmp:Path):
    "A learner with a trained head, and its table."
    root = Path(data)/'fashion-product-images' if data else demo_styles(tmp/'shop', n=n, seed=1)
    df = read_catalog(root, label_columns=['masterCategory', 'subCategory', 'articleType']).df
    df = audit_images(df.sample(min(n, len(df)), random_state=0).reset_index(drop=True))[0]
    df, _ = split_catalog(df, seed=42); space = fit_labels(df); df, _ = apply_labels(df, space)
    set_seed(42, reproducible=True)
    learn = catalog_learner(catalog_dls(df, space, arch_prep('efficientnet_lite0', size), min_scale=.5), path=tmp)
    cached_learner(learn, 'pool', 1).fit_one_cycle(8, 4e-3)
    return learn, df

def session(path:Path):
    opts = onnxruntime.SessionOptions(); opts.intra_op_num_threads = opts.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, opts, providers=['CPUExecutionProvider'])

def answers(s, x:np.ndarray, bs:int)->np.ndarray:
    return np.concatenate([s.run(None, {'picture': x[i:i+bs]})[0] for i in range(0, len(x), bs)])

def graphs(tagger:Tagger, path:Path, pictures:list[str])->dict:
    "Name → session of the float graph and its quantised kin."
    quant_pre_process(str(path), str(path.with_name('whole.onnx')), skip_symbolic_shape=True)
    whole = onnx.load(path.with_name('whole.onnx')); del whole.graph.value_info[:]; onnx.save(whole, path.with_name('whole.onnx'))
    static = dict(weight_type=QuantType.QInt8, per_channel=True, activation_type=QuantType.QUInt8)
    quantize_dynamic(path.with_name('whole.onnx'), path.with_name('dynamic.onnx'), weight_type=QuantType.QUInt8)
    for name, change in {'layer': dict(per_channel=False), 'signed': dict(activation_type=QuantType.QInt8)}.items():
        quantize_static(str(path.with_name('whole.onnx')), str(path.with_name(f'{name}.onnx')), _Batches(tagger, pictures),
                        **static | change)
    return {'float32': session(path), 'dynamic': session(path.with_name('dynamic.onnx')),
            'static, a scale a layer': session(path.with_name('layer.onnx')),
            'static, a scale a channel': session(quantise_onnx(tagger, path, pictures)),
            'the same, signed activations': session(path.with_name('signed.onnx'))}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', nargs='?', default=os.environ.get('CATALOG_TAGGER_DATA')); p.add_argument('--n', type=int, default=2200)
    p.add_argument('--size', type=int, default=128)
    a = p.parse_args(); torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as d:
        tmp = Path(d); os.environ['CATALOG_TAGGER_CACHE'] = str(tmp/'cache')
        learn, df = trained(a.data, a.n, a.size, tmp)
        tagger = Tagger.load(save_bundle(learn, tmp/'bundle')); export_onnx(tagger, tmp/'tagger.onnx')
        some = df['image'][:300].tolist(); x = np.stack([tagger.prep(o) for o in some]); s = session(tmp/'tagger.onnx')
        want = learn.get_preds(dl=learn.dls.test_dl(some))[0].numpy()
        for who, o in {'Predictor': Predictor.from_learner(learn).scores(some), 'Tagger, 64': tagger.scores(some),
                       'Tagger, 1': tagger.scores(some, bs=1), 'ONNX, 64': answers(s, x, 64), 'ONNX, 1': answers(s, x, 1)}.items():
            print(f'{who:<12} largest gap to the Learner on {len(some)} pictures: {np.abs(o - want).max():.1e}')
        test, space = df[df['split'] == 'test'].reset_index(drop=True)[:400], tagger.space
        x, targs = np.stack([tagger.prep(o) for o in test['image']]), space.one_hot(test['labels'])
        all_graphs = graphs(tagger, tmp/'tagger.onnx', df.loc[df['split'] == 'train', 'image'].tolist()[:64])
        seconds, got = {k: [] for k in all_graphs}, {}
        for _ in range(3):
            for k, o in all_graphs.items(): t = perf_counter(); got[k] = answers(o, x, 20); seconds[k].append(perf_counter() - t)
        cols = list(space.group_columns.values())[-1]; known = targs[:, cols].any(1); ms = {k: np.median(o) for k, o in seconds.items()}
        for k, o in got.items():
            exact = (as_matrix(decode(o, space, k=None, min_score=.5), space) == targs).all(1).mean()
            right = (o[:, cols].argmax(1) == targs[:, cols].argmax(1))[known].mean()
            print(f'| {k} | {ms["float32"]/ms[k]:.2f} x | {recall_at_k(o, targs, 3):.3f} | {exact:.3f} | {right:.3f} | '
                  f'{np.abs(o - got["float32"]).mean():.4f} |')
        print(f'largest change of a score of what is offered: {np.abs(got["static, a scale a channel"] - got["float32"]).max():.2f}')

if __name__ == '__main__': main()
