"What a notebook needs: `from catalog_tagger.all import *`. Written by hand; every other module is exported from a notebook."
from fastai.vision.all import *

from catalog_tagger.core import *
from catalog_tagger.ingest import *
from catalog_tagger.images import *
from catalog_tagger.decoded import *
from catalog_tagger.demo import *
from catalog_tagger.config import *
from catalog_tagger.split import *
from catalog_tagger.text import *
from catalog_tagger.labels import *
from catalog_tagger.recipe import *
from catalog_tagger.source import *
from catalog_tagger.data import *
from catalog_tagger.metrics import *
from catalog_tagger.models import *
from catalog_tagger.losses import *
from catalog_tagger.learner import *
from catalog_tagger.checkpoint import *
from catalog_tagger.training import *
from catalog_tagger.cache import *
from catalog_tagger.predict import *
from catalog_tagger.run import *
from catalog_tagger.compare import *
from catalog_tagger.viz import *
from catalog_tagger.check import *
from catalog_tagger.tour import *
