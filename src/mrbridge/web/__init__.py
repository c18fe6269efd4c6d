"""The page and HTTP interface of `mrbridge serve`; the self-contained page of `mrbridge view`."""
