module interop

go 1.19

require nkv v0.0.0

replace nkv => ../../../clients/go
