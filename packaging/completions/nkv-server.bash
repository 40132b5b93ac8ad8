# Completion of nkv-server's options in bash.

_nkv_server() {
    local current=$2 previous=$3
    # `--sync=al` comes as three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    COMPREPLY=()
    case $previous in
    --data-dir | --runtime-dir)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        ;;
    --token-file | --access | --check-access)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        ;;
    --sync)
        mapfile -t COMPREPLY < <(compgen -W 'always interval never' -- "$current")
        ;;
    --socket-mode)
        mapfile -t COMPREPLY < <(compgen -W '0600 0660 0666' -- "$current")
        ;;
    --socket-group)
        mapfile -t COMPREPLY < <(compgen -g -- "$current")
        ;;
    --log)
        mapfile -t COMPREPLY < <(compgen -W 'error warn info debug' -- "$current")
        ;;
    --max-clients | --max-message | --max-keys | --max-bytes | --max-subscriptions | \
        --tombstones | --send-buffer | --idle-exit) ;;
    *)
        if [[ $current == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '
                --data-dir --runtime-dir --sync --recover --in-memory
                --socket-mode --socket-group --access --check-access --token-file
                --max-clients --max-message --max-keys --max-bytes --max-subscriptions
                --tombstones --send-buffer --idle-exit
                --log --help --version -h -V' -- "$current")
        else
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
        fi
        ;;
    esac
}

complete -F _nkv_server nkv-server
