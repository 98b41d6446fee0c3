"""From a trained checkpoint to a signed bundle that devices accept: export, quantise, bundle, sign, publish."""
