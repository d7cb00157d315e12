/*
 * What the packed program has instead of the package `string-width`, which yargs lays out its help with: the package makes the table of
 * all emoji when it is loaded, 20 ms of every command. Our help is plain text.
 */

import { columnsOf } from '../src/cli/terminal.ts'

export default columnsOf
