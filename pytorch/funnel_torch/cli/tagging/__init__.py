"""Token classification: the settings of ``tagger.py``, and what it runs."""
