"""Text and tokens: tokenizers, chat templates, the text of a stream of tokens, and the choice among logits.

This room reads the files in which a model says how its text is written. It knows neither the model's arithmetic nor an
experiment.
"""
