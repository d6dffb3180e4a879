"""Distil a teacher into a student; `python -m d2llm_vdb.distill`.

data        queries, passages, and which of them match
negatives   hard negatives from the student's own recall and from BM25
asking      the teacher's judgements, and false negatives dropped by them
lessons     sets on disk to what a training step reads
states      token states on disk, or token ids where the backbone learns too
batches     queries with their candidates
losses      the paper's losses, pure functions
objective   which head imitates what
encoded     texts by every head, and the scores of their pairs
model       heads over a backbone, frozen or not
dev         how good a student is while it trains
worth       whether the teacher is better than that
distiller   `distill`: all of it, resumable
teach       fine-tune a teacher on labels
training    what both trainings share of transformers' Trainer
config      settings
plot        losses as a picture
"""
