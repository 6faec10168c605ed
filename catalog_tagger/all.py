"""What a notebook calls: `from catalog_tagger.all import *`, fastai's names among them. Everything else is imported from its package.

Written by hand, group by group; the page `nbs/api.ipynb` lists the names with a sentence each. Every other module is exported from a
notebook."""
from fastai.vision.all import *

# A catalog
from catalog_tagger.core.config import RunConfig, find_preset
from catalog_tagger.core.files import CatalogError
from catalog_tagger.core.table import Catalog, check_table, read_table, write_table
from catalog_tagger.catalog.read import find_layout, read_catalog
from catalog_tagger.catalog.readers.base import drop_rare
from catalog_tagger.catalog.readers.styles import read_styles
from catalog_tagger.catalog.readers.folders import read_folders
from catalog_tagger.catalog.readers.tags import read_tags
from catalog_tagger.catalog.readers.onehot import read_onehot
from catalog_tagger.catalog.readers.imaterialist import read_garments, read_imaterialist
from catalog_tagger.catalog.readers.feidegger import read_feidegger
from catalog_tagger.catalog.query import choose_rows, comparable
from catalog_tagger.catalog.prepare import prepare_catalog
from catalog_tagger.apps.check import catalog_facts, report_facts

# Pictures
from catalog_tagger.catalog.images import ImageError, Prep, audit_images, open_image, open_mask
from catalog_tagger.catalog.picture_files import find_pictures
from catalog_tagger.catalog.picture_cache import cache_folder, cache_pictures

# Folds
from catalog_tagger.catalog.split import (cross_folds, join_units, near_duplicates, report_torn, split_audit, split_by, split_catalog,
                                          split_summary)

# Labels
from catalog_tagger.catalog.descriptions import clean_text, clean_texts
from catalog_tagger.catalog.label_words import find_mentions, label_names, label_stems, mask_words, names_label, word_stems
from catalog_tagger.catalog.labels import LabelSpace, apply_labels, fit_labels, missing_labels, report_missing
from catalog_tagger.catalog.steps import lemmatise, normalise
from catalog_tagger.catalog.recipe import Recipe, fit_recipe, provenance_table
from catalog_tagger.catalog.suggest import suggest_groups
from catalog_tagger.catalog.text import TextTags, find_words, fit_idf, fit_text_tags, tag_texts

# Data for training
from catalog_tagger.train.backbones import arch_prep, find_arch
from catalog_tagger.train.weights import list_archs
from catalog_tagger.train.data import CatalogDLs, catalog_block, catalog_dls, label_block, picture_block, train_tfms

# Training
from catalog_tagger.train.learner import FrozenStats, History, catalog_learner
from catalog_tagger.train.losses import ReadByLabels, find_loss
from catalog_tagger.train.checks import check_learner
from catalog_tagger.train.activations import cached_learner, split_points
from catalog_tagger.train.schedule import EMA, balance_sampling, fit_schedule, rarity_weights, suggest_rate
from catalog_tagger.train.checkpoint import KeepBest, StopOnNaN
from catalog_tagger.train.text_model import TextModel, fit_text_model

# Scores
from catalog_tagger.train.fastai_metrics import DominantRecall, RecallAtK, fastai_metric
from catalog_tagger.core.metrics import (
    METRICS, dominant_recall, exact_match, f1, floor_scores, group_accuracy, label_table, mean_average_precision, precision_at_k,
    recall_at_k, score_table)

# Taggers
from catalog_tagger.serve.fit import fit_tagger
from catalog_tagger.serve.predictor import Predictor
from catalog_tagger.serve.tagger import Tagger, save_bundle
from catalog_tagger.serve.modes import MODES
from catalog_tagger.serve.decide import Decision, decide, fit_decision
from catalog_tagger.serve.products import COMBINE, ProductRule, combine_scores, fit_products, product_names, product_truth
from catalog_tagger.serve.texts import SIDES, Join, TextSide, fit_join, fit_text_side, text_signals
from catalog_tagger.serve.review import review_queue
from catalog_tagger.serve.words import mark_words, text_ngrams, text_words
from catalog_tagger.serve.many import tag_many
from catalog_tagger.serve.onnx import export_onnx, quantise_onnx

# Similar products
from catalog_tagger.search.embed import embed_catalog, load_embeddings, make_embedder
from catalog_tagger.search.index import SimilarIndex
from catalog_tagger.search.retrieval import retrieval_scores
from catalog_tagger.search.triplets import (
    CollapseGuard, MultiLabelSupCon, SharedRule, TripletLoss, embedding_health, embedding_learner, mine_triplets, overlap,
    overlap_sampling, triplet_accuracy)
from catalog_tagger.search.contrastive import contrastive_dls, contrastive_learner, few_labels, linear_probe, save_body

# Runs
from catalog_tagger.runs.folder import Run, load_tagger
from catalog_tagger.runs.train import build_learner, fit_learner, train_run
from catalog_tagger.runs.score import score_pictures, score_products, score_texts, side_table, text_leaks
from catalog_tagger.runs.evaluate import evaluate_run, review_pictures
from catalog_tagger.runs.compare import compare_runs
from catalog_tagger.runs.index import index_catalog
from catalog_tagger.runs.tag import find_products, find_rows, tag_run

# Plots and reports
from catalog_tagger.report.plots import (
    bar_columns, coverage_plot, embedding_map, history_plot, neighbour_sheet, picture_grid, rate_plot, reliability_plot, save_figure)
from catalog_tagger.report.data_plots import (
    cooccurrence, cooccurrence_plot, label_count_plot, labelled_plot, recipe_report, size_plot, transform_grid)
from catalog_tagger.report.interpret import (
    activation_plot, confused_grid, confused_pairs, confusion_plot, error_plot, error_table, filter_plot, heat_grid, heat_maps, loss_grid,
    share_bars, top_losses, wrong_pictures)
from catalog_tagger.report.texts import side_plot
from catalog_tagger.report.label_issues import issue_grid, label_issues, run_issues
from catalog_tagger.report.report import write_report

# A catalog to try things on
from catalog_tagger.testing.demo import (
    FAULTS, demo_feidegger, demo_folders, demo_imaterialist, demo_onehot, demo_posts, demo_shop, demo_styles, demo_tags, study_data)
from catalog_tagger.testing.drawing import draw_product
