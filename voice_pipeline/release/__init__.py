"""Promise: no gate can be walked around, and a bad release undoes itself."""
