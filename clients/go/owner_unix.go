//go:build unix

package nkv

import (
	"os"
	"syscall"
)

func isOwnedBy(file os.FileInfo, uid int) bool {
	stat, ok := file.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == uid
}
