"""The record of a run, beside its output: which blocks are finished, who may write, which files are daskreg's.

ledger_entry   what the ledger says of one finished block
ledger         which blocks are finished, and what their files hold
journals       where the lines of a ledger are: in files, or in objects of a store
claim          a claim to a folder, for file systems without locks
lock           a lock on a file that ends with its process
own_files      which files of an output daskreg made
own_objects    the same in an object store
"""
