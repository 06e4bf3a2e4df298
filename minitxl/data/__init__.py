"""Text in, batches out: corpora, vocabularies, contiguous streams, data sets and baselines.

    corpus = load_corpus("war-and-peace")  # or a prepared data set, or the path of any UTF-8 text
    stream = Stream(corpus.train, batch_size=16, tgt_len=64)
    tokens, targets, fresh = stream.next()

NumPy does the host work here (index arrays); nothing in this folder knows of the model.
"""

from minitxl.data.baselines import PPMD, compression_bpc
from minitxl.data.datasets import DATASETS
from minitxl.data.stream import Stream, segments
from minitxl.data.text import CORPORA, Corpus, load_corpus
from minitxl.data.tokens import NumberVocab, TokenVocab
from minitxl.data.vocab import ByteVocab, CharVocab, vocab_from_dict
from minitxl.data.words import WordVocab

__all__ = [
    "CORPORA",
    "DATASETS",
    "PPMD",
    "ByteVocab",
    "CharVocab",
    "Corpus",
    "NumberVocab",
    "Stream",
    "TokenVocab",
    "WordVocab",
    "compression_bpc",
    "load_corpus",
    "segments",
    "vocab_from_dict",
]
