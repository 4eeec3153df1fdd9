"""How frames move and jobs live; knows no video codec and no network."""
