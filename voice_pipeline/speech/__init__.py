"""Audio, frontend, tokenizer, encoder, decoding, augmentation, scoring. Ground floor: imports nothing else of the
project.
"""
