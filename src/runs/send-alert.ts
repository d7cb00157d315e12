import { execa } from 'execa'
import type { Alert, AlertSink } from '../domain/alerts.ts'
import { UserError } from '../domain/errors.ts'

const patienceMs = 10_000

/**
 * Sends an alert: to a webhook as JSON, to a command as JSON on its standard input, as mail through `sendmail`. Raises UserError
 * ALERT_UNSENT, which names the place without what may be secret in it.
 */
export async function sendAlert(alert: Alert, sink: AlertSink): Promise<void> {
  const body = JSON.stringify({ ...alert, text: textOf(alert) })
  try {
    if ('webhook' in sink) await post(sink.webhook, body)
    else if ('command' in sink) {
      const [program = '', ...words] = sink.command
      await execa(program, words, { input: body, timeout: patienceMs, stdout: 'ignore' })
    } else await execa('sendmail', ['-i', '--', sink.mail], { input: mailOf(alert, sink.mail), timeout: patienceMs })
  } catch (cause) {
    const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause)
    throw new UserError(
      'ALERT_UNSENT',
      `${sinkName(sink)}: expected it to take the alert, got: ${'webhook' in sink ? withoutUrl(reason, sink.webhook) : reason}`,
      {
        cause,
        hint: 'stagewright alerts test FILE sends one',
      },
    )
  }
}

async function post(url: string, body: string): Promise<void> {
  const answer = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body,
    redirect: 'error',
    signal: AbortSignal.timeout(patienceMs),
  })
  await answer.body?.cancel()
  if (!answer.ok) throw new Error(`status ${answer.status}`)
}

/** Where an alert goes, without tokens: paths and queries of webhooks often are one. */
export function sinkName(sink: AlertSink): string {
  if ('webhook' in sink) return `webhook at ${new URL(sink.webhook).host}`
  return 'command' in sink ? `command ${sink.command[0]}` : `mail to ${sink.mail}`
}

function withoutUrl(text: string, url: string): string {
  return text.replaceAll(url, '…')
}

/** An alert in one line. */
export function textOf({ run, rule, message }: Alert): string {
  return `${run}: ${message} (${rule})`
}

/** Header lines must not be broken by what a run says. */
function mailOf(alert: Alert, to: string): string {
  const subject = `stagewright: ${textOf(alert)}`.replaceAll(/[\r\n]+/g, ' ').slice(0, 200)
  const time = new Date(alert.ts * 1000).toISOString()
  return `To: ${to}\nSubject: =?UTF-8?B?${Buffer.from(subject).toString('base64')}?=\nContent-Type: text/plain; charset=utf-8\n\n${textOf(alert)}\n${time}\n`
}
