"""The comparison with published results: AN4 by its official split, with this project's trainer, quantiser and decoder.

ESPnet's transformer makes 7.4 % WER with a language model there, deepspeech.pytorch 9.57 %. Protocol: the 130 test
clips decide nothing; they are heard when a seed is judged. A tenth of the training speakers, chosen by the digest of
their names, is the development split, on which everything is chosen: recipe, best epoch, int8 candidate, weights of
the language model, confidence. The language model sees training texts only. Recipe: profile `full` of
`policy/retrain.yaml`.

Each seed is kept under `<home>/published`, so that benchmarks and tables train a seed once; a killed run resumes.
"""
