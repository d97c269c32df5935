"""Token classification: files of tagged words, tag schemes, scores of entities, predictions."""
