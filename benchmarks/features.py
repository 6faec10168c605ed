"""How fast 100 pictures become ResNet-50 features, as study 1 measured it: [100, 3, 224, 224] → [100, 2048, 7, 7].

    python benchmarks/features.py [--turns N] [--threads N]

Four ways to run the same net: torch as it is, in channels_last, compiled, and ONNX Runtime. The weights are random: the
time does not depend on them. One process, the ways take turns, the shortest time of each counts; compiling and
exporting come before the clocks start. ONNX Runtime needs `pip install onnxruntime onnxscript`, torch.compile a C++
compiler; a way that cannot be had says so and is left out."""
import argparse, logging, tempfile
from copy import deepcopy
from pathlib import Path
from time import perf_counter

import numpy as np, torch, torchvision
from torch import nn

N, SIZE = 100, 224

def resnet_features()->nn.Module:
    "ResNet-50 without its pooling and classifier."
    torch.manual_seed(42)
    return nn.Sequential(*list(torchvision.models.resnet50(weights=None).children())[:-2]).eval()

def plain(net, x): return lambda: net(x)

def channels_last(net, x): return plain(deepcopy(net).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last))

def compiled(net, x): return plain(torch.compile(net), x)

def onnx_runtime(net, x):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as d:
        path = Path(d)/'resnet50.onnx'
        torch.onnx.export(net, (x,), path, input_names=['x'], verbose=False)
        session = onnxruntime.InferenceSession(path, options)
    return lambda: torch.from_numpy(session.run(None, {'x': x.numpy()})[0])

WAYS = {'torch': plain, 'torch, channels_last': channels_last, 'torch.compile': compiled, 'ONNX Runtime': onnx_runtime}

def prepare(net:nn.Module, x:torch.Tensor)->dict:
    "The ways that can be had here, each run once and found to give the same features."
    want, ready = net(x), {}
    assert want.shape == (N, 2048, 7, 7)
    for name, way in WAYS.items():
        try: run = way(net, x); got = run()
        except Exception as e: print(f'  {name} is left out: {str(e).strip().splitlines()[0]}'); continue
        assert (got - want).norm() < 1e-4*want.norm(), f'{name} gives other features'
        ready[name] = run
    return ready

def seconds(run)->float:
    t = perf_counter(); run()
    return perf_counter() - t

def main(turns:int)->None:
    x = torch.rand(N, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(42))
    with torch.no_grad():
        ways = prepare(resnet_features(), x)
        best = np.array([[seconds(run) for run in ways.values()] for _ in range(turns)]).min(0)
    print(f'{N} pictures of {SIZE} px through ResNet-50, {torch.get_num_threads()} threads, best of {turns} turns:')
    for name, t in zip(ways, best): print(f'  {name:<22}{t:8.3f} s {N/t:8.1f} pictures/s   {best[0]/t:5.2f} × torch')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--turns', type=int, default=5, metavar='N', help='turns that each way takes (5)')
    p.add_argument('--threads', type=int, metavar='N', help='threads of torch and of ONNX Runtime')
    args = p.parse_args()
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    if args.threads: torch.set_num_threads(args.threads)
    main(args.turns)
