"""The library in other libraries' terms.

sentence_transformers   a student as a `SentenceTransformer`
mteb                    an index as a model that mteb evaluates
"""
