module nkv

go 1.19
