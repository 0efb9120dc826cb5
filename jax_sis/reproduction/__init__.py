"""The study of Carter et al. (2021) as one program: stages that know what they were made of, run once and resumed."""
